"""What all solvers ask of their arguments: named errors, precision, directions of time."""

import jax
import jax.numpy as jnp
import pytest

from probjax.diffeq import solution


def test_states_are_widened_and_integers_refused() -> None:
    state = solution.checked_state({"a": jnp.ones(2, jnp.bfloat16), "b": 1.0})
    assert state["a"].dtype == jnp.float32 and state["b"].shape == ()
    assert solution.checked_state(jnp.ones(2, jnp.complex64)).dtype == jnp.complex64
    with pytest.raises(TypeError, match="y0 must be floating"):
        solution.checked_state(jnp.arange(3))
    with pytest.raises(ValueError, match="empty tree"):
        solution.checked_state({})


def test_times_take_the_real_precision_of_the_state(x64: None) -> None:
    assert solution.time_dtype(jnp.ones(1, jnp.complex128)) == jnp.float64
    assert solution.time_dtype({"a": jnp.ones(1, jnp.float32)}) == jnp.float32


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda t, y, args: (y, y), "structure"),
        (lambda t, y, args: y[None], r"float32\[1, 3\]"),
        (lambda t, y, args: y.astype(jnp.bfloat16), "bfloat16"),
    ],
)
def test_fields_must_return_what_adds_to_the_state(field, message) -> None:
    with pytest.raises(TypeError, match=message):
        solution.check_field(field, 0.0, jnp.zeros(3), None)


def test_times_run_one_way_in_either_direction() -> None:
    solution.check_times("times", [3.0, 2.0, 1.0], t0=4.0, t1=0.0)
    with pytest.raises(ValueError, match=r"times\[1\]=2.0 does not follow"):
        solution.check_times("times", [1.0, 2.0], t0=4.0, t1=0.0)
    with pytest.raises(ValueError, match=r"times\[1\]=1.0 does not follow"):
        solution.check_times("times", [1.0, 1.0])
    with pytest.raises(ValueError, match="non-empty vector"):
        solution.check_times("times", [])
    with pytest.raises(ValueError, match="outside the span"):
        solution.check_times("save_at", [5.0, 1.0], t0=4.0, t1=0.0)


def test_steps_lead_to_the_end() -> None:
    solution.check_step("first_step", -0.1, 1.0, 0.0)
    for bad in (0.0, 0.1, float("nan")):
        with pytest.raises(ValueError, match="first_step must lead"):
            solution.check_step("first_step", bad, 1.0, 0.0)


def test_tolerances() -> None:
    solution.check_tolerances(0.0, 1e-3)
    with pytest.raises(ValueError, match="rtol"):
        solution.check_tolerances(-1e-3, 1e-3)
    with pytest.raises(ValueError, match="both be zero"):
        solution.check_tolerances(jnp.zeros(2), 0.0)


def test_traced_values_pass() -> None:
    def traced(t):
        solution.check_times("times", jnp.stack([t, t]))
        solution.check_step("first_step", t, t, t)
        solution.check_tolerances(t, t)
        return t

    jax.jit(traced)(1.0)
