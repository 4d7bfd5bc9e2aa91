"""Every contender samples the same law, and its draws and gradients are counted alike."""

import jax
import numpy as np
import pytest

from benchmarks import harness
from benchmarks.mcmc import posteriors


@pytest.mark.slow
def test_a_case_has_draws_gradients_errors_and_bars(reuse_keys):
    """In the settings of users: the peers promote types, and use a key twice."""
    lengths = posteriors.Lengths(chees=(100, 100), hmc=(60, 100), nuts=(150, 200))
    (case,) = posteriors.cases(("eight_schools",), lengths, chains=32, num_keys=2, tolerance=0.5)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = harness.measure(case, harness.Effort(2, 0.0, 0.0), say=lambda line: None)
    assert found["absent"] == []
    names = [row["name"] for row in found["contenders"]]
    assert [row["peer"] for row in found["contenders"]] == [
        name.startswith(("BlackJAX", "NumPyro")) for name in names
    ]
    assert found["reference"].startswith("BlackJAX")
    assert [(bar["kind"], bar["value"]) for bar in found["bars"]] == [("speed", 3), ("speed", 1)]
    assert found["bars"][0]["against"].startswith("NumPyro")
    for row in found["contenders"]:
        assert set(row["figures"]) == {
            "draws", posteriors.PER_GRADIENT, posteriors.PER_SAMPLING
        }  # fmt: skip
        whole, part = (
            row["figures"][posteriors.PER_GRADIENT],
            row["figures"][posteriors.PER_SAMPLING],
        )
        assert 0 < whole[1] < part[1] < 1.5


def test_draws_are_the_smallest_over_both_powers():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, 500, 2))
    assert posteriors._effective(x) > 1000
    # A coordinate whose size persists while its sign does not: only x**2 tells.
    slow = np.repeat(np.abs(generator.normal(size=(4, 5, 1))), 100, axis=1)
    x[..., :1] = slow * generator.choice([-1.0, 1.0], size=(4, 500, 1))
    assert posteriors._effective(x) < 100


def test_the_rotated_gaussian_is_asked_for_more():
    bars = posteriors.cases(("ill_conditioned_rotated",), chains=8)[0].bars
    assert bars[-1] == harness.Bar(posteriors.PER_GRADIENT, 10.0, "NumPyro NUTS, diagonal")


def test_quick_cases_keep_what_is_asked():
    """Ours and the peers that a bar names; nothing is prepared here."""
    for case in posteriors.quick_cases():
        names = [contender.name for contender in case.contenders if contender.peer]
        assert names == ["BlackJAX ChEES by hand", "NumPyro NUTS, diagonal"]
        assert all(bar.against in (None, "NumPyro", names[1]) for bar in case.bars)
    assert "2 keys" in case.description


def test_the_first_call_is_told_whoever_makes_it():
    calls = []
    timed = posteriors._Timed(
        lambda key: calls.append(key) or harness.time.sleep(0.02 / len(calls))
    )
    timed("truth")
    seconds = timed.seconds
    timed("draws")
    assert calls == ["truth", "draws"] and timed.seconds == seconds >= 0.02
