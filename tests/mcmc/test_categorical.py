"""The Gumbel-max trick: exact laws by counting, shards against one device, rows without a draw."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from probjax.core.keys import item_key, item_keys
from probjax.mcmc import categorical
from probjax.mcmc.categorical import gumbel_max, gumbel_max_sharded, gumbel_top_k

SEVEN = np.array([0.13114754, 0.01639344, 0.21311475, 0.24590164, 0.19672131, 0.06557377])
SEVEN = np.append(SEVEN, 0.13114754)
FOUR = np.array([0.4, 0.3, 0.2, 0.1])
INF = np.inf


def p_value(counts, probabilities):
    return stats.chisquare(counts, counts.sum() * probabilities / probabilities.sum()).pvalue


def shards(num_devices):
    return jax.make_mesh(
        (num_devices,), ("items",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
    )


def check_law(draw):
    """`draw(key, logits (n, 7)) -> (n,)` counts like the seven probabilities."""
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(SEVEN, jnp.float32)) + 3.0, (10_000, 7))
    drawn = np.asarray(jax.jit(draw)(jax.random.key(0), logits))
    counts = np.bincount(drawn, minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts, 10_000 * SEVEN).statistic < 22.46


def test_law_of_one_draw():
    check_law(gumbel_max)


def noisy(noise):
    return lambda key, logits: jnp.argmax(noise(key, logits), axis=-1)


MUTANTS = {
    "no noise": noisy(lambda key, x: x),
    "normal noise": noisy(lambda key, x: x + jax.random.normal(key, x.shape)),
    "flipped Gumbel": noisy(lambda key, x: x - jax.random.gumbel(key, x.shape)),
    "one log forgotten": noisy(lambda key, x: x - jnp.log(jax.random.uniform(key, x.shape))),
    "half the noise": noisy(lambda key, x: x + 0.5 * jax.random.gumbel(key, x.shape)),
    "noise shared by rows": noisy(
        lambda key, x: x + jnp.broadcast_to(jax.random.gumbel(key, x.shape[-1:]), x.shape)
    ),
    "noise shared by categories": noisy(
        lambda key, x: x + jnp.broadcast_to(jax.random.gumbel(key, (*x.shape[:-1], 1)), x.shape)
    ),
    "probabilities for logits": noisy(
        lambda key, x: jnp.exp(x - 3) + jax.random.gumbel(key, x.shape)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills(name):
    with pytest.raises(AssertionError):
        check_law(MUTANTS[name])


def test_law_of_several_draws_from_two_rows(reuse_keys):
    """Rows and samples are independent; sample i is the draw with the item's key."""
    logits = jnp.log(jnp.stack([jnp.asarray(FOUR), jnp.asarray(FOUR[::-1])]).astype(jnp.float32))
    draws = np.asarray(gumbel_max(jax.random.key(1), logits, num_samples=20_000))
    assert draws.shape == (20_000, 2) and draws.dtype == np.int32
    pairs = np.bincount(4 * draws[:, 0] + draws[:, 1], minlength=16)
    assert p_value(pairs, np.outer(FOUR, FOUR[::-1]).ravel()) > 1e-4
    steps = np.bincount(4 * draws[:-1, 0] + draws[1:, 0], minlength=16)
    assert p_value(steps, np.outer(FOUR, FOUR).ravel()) > 1e-4
    alone = gumbel_max(item_key(jax.random.key(1), 12_345), logits)
    np.testing.assert_array_equal(alone, draws[12_345])


@pytest.mark.slow
def test_tiles_do_not_change_the_draws(monkeypatch, reuse_keys):
    logits = jnp.log(jnp.asarray(FOUR, jnp.float32))
    whole = gumbel_max(jax.random.key(2), logits, num_samples=100)
    for tile in (28, 4 * 33):
        monkeypatch.setattr(categorical, "TILE", tile)
        np.testing.assert_array_equal(gumbel_max(jax.random.key(2), logits, num_samples=100), whole)
    assert gumbel_max(jax.random.key(2), logits, num_samples=0).shape == (0,)


def test_samples_times_categories_is_never_in_memory():
    draw = jax.jit(lambda key, x: gumbel_max(key, x, num_samples=8192))
    compiled = draw.lower(jax.random.key(0), jnp.zeros(8192)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8192 * 8192 * 4 / 50


def test_the_maximum_is_gumbel_at_the_log_sum_and_independent_of_its_place(reuse_keys):
    logits = jnp.asarray([0.3, -1.0, 1.2], jnp.float32)
    rows = jnp.broadcast_to(logits, (20_000, 3))
    key = jax.random.key(3)
    perturbed = rows + jax.random.gumbel(key, rows.shape, mode="high")
    place = np.asarray(gumbel_max(key, rows))
    np.testing.assert_array_equal(place, np.argmax(np.asarray(perturbed), axis=-1))
    top = np.sort(np.asarray(perturbed).max(-1))
    law = stats.gumbel_r(loc=np.log(np.exp([0.3, -1.0, 1.2]).sum()))
    bound = np.sqrt(np.log(2 / 1e-6) / (2 * len(top)))
    assert np.abs(law.cdf(top) - (np.arange(len(top)) + 0.5) / len(top)).max() < bound
    assert np.abs(stats.gumbel_r().cdf(top) - np.arange(len(top)) / len(top)).max() > 10 * bound
    for k in range(3):
        here = np.asarray(perturbed).max(-1)[place == k]
        assert stats.kstest(here, law.cdf).pvalue > 1e-5


def check_pairs(top_two):
    """The law of the first two over all twelve ordered pairs."""
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(FOUR, jnp.float32)), (20_000, 4))
    pairs = np.asarray(jax.jit(top_two)(jax.random.key(4), logits))
    count = np.zeros((4, 4))
    np.add.at(count, (pairs[:, 0], pairs[:, 1]), 1)
    exact = {
        (i, j): FOUR[i] * FOUR[j] / (1 - FOUR[i]) for i, j in itertools.permutations(range(4), 2)
    }
    np.testing.assert_allclose(
        [exact[0, 1], exact[1, 0], exact[3, 2]], [0.2, 0.171429, 0.022222], atol=1e-6
    )
    assert np.trace(count) == 0
    assert p_value(np.array([count[pair] for pair in exact]), np.array([*exact.values()])) > 1e-4


def test_law_of_the_first_two():
    check_pairs(lambda key, x: gumbel_top_k(key, x, 2))


@pytest.mark.slow
def test_the_pairs_kill_other_orders_and_replacement():
    def replaced(key, x):
        keys = jax.random.split(key)
        return jnp.stack([gumbel_max(keys[0], x), gumbel_max(keys[1], x)], axis=-1)

    for mutant in (replaced, lambda key, x: gumbel_top_k(key, x, 2)[:, ::-1]):
        with pytest.raises(AssertionError):
            check_pairs(mutant)


def test_top_k_runs_out(reuse_keys):
    logits = jnp.asarray([[0.0, -INF, 1.0, -INF], [-INF] * 4, [0.0, np.nan, 1.0, 2.0]])
    places = np.asarray(gumbel_top_k(jax.random.key(5), logits, 6))
    assert places.shape == (3, 6) and places.dtype == np.int32
    assert sorted(places[0, :2]) == [0, 2]
    assert (places[0, 2:] == -1).all() and (places[1:] == -1).all()
    first = gumbel_top_k(jax.random.key(5), logits, 1)[:, 0]
    np.testing.assert_array_equal(first, gumbel_max(jax.random.key(5), logits))


def test_rows_without_a_law_give_minus_one_and_harm_no_other(reuse_keys):
    logits = jnp.asarray(
        [[-INF, 0.5, -INF], [-INF] * 3, [0.0, np.nan, 0.0], [0.0, INF, 0.0], [0.0, 0.0, -INF]]
    )
    draws = np.asarray(gumbel_max(jax.random.key(6), logits, num_samples=500))
    np.testing.assert_array_equal(draws[:, :4], np.tile([1, -1, -1, -1], (500, 1)))
    assert set(draws[:, 4]) == {0, 1}
    for block in (2, 8):
        place = gumbel_max_sharded(jax.random.key(6), logits, axis_name=None, block=block)
        assert np.asarray(place)[:4].tolist() == [1, -1, -1, -1]


def test_the_axis_of_the_categories(reuse_keys):
    logits = jax.random.normal(jax.random.key(7), (4, 3))
    along = gumbel_max(jax.random.key(8), logits.T, axis=0)
    np.testing.assert_array_equal(along, gumbel_max(jax.random.key(8), logits, axis=-1))
    assert gumbel_max(jax.random.key(8), logits, axis=0, num_samples=2).shape == (2, 3)


@pytest.fixture(scope="module")
def two_rows():
    """Forty categories; the second row has its mass in the last shard, and a dead shard."""
    logits = 0.5 * np.random.default_rng(0).normal(size=(2, 40))
    logits[1, 10:15] = -INF
    logits[1, 35:] += 2
    return jnp.asarray(logits, jnp.float32)


def on_devices(num_devices, key, logits, block):
    spec = PartitionSpec(None, "items")
    run = jax.jit(
        jax.shard_map(
            lambda key, x: gumbel_max_sharded(key, x, axis_name="items", block=block),
            mesh=shards(num_devices),
            in_specs=(PartitionSpec(), spec),
            out_specs=PartitionSpec(),
        )
    )
    return run, (key, logits)


@pytest.mark.parametrize("block, devices", [(4, 8), (5, 4), (64, 8)])
def test_any_number_of_shards_gives_the_same_draws(two_rows, reuse_keys, block, devices):
    """Blocks that end with shards, across them, and longer than all of them."""
    keys = item_keys(jax.random.key(9), 64)
    rows = jnp.tile(two_rows, (32, 1))
    whole = jax.jit(lambda k, x: gumbel_max_sharded(k, x, axis_name=None, block=block))(keys, rows)
    assert len(set(np.asarray(whole).tolist())) > 10
    run, arguments = on_devices(devices, keys, rows, block)
    np.testing.assert_array_equal(run(*arguments), whole)


def test_law_over_shards():
    """Shards and blocks have noise of their own: equal logits, equal counts, no shared wins."""
    n = 8192
    rows = jnp.broadcast_to(jnp.log(jnp.arange(1.0, 17.0)), (n, 16))
    run, arguments = on_devices(4, jax.random.key(10), rows, 3)
    counts = np.bincount(np.asarray(run(*arguments)), minlength=16)
    assert p_value(counts, np.arange(1.0, 17.0)) > 1e-4


def test_a_broken_shard_breaks_its_row_everywhere(two_rows, reuse_keys):
    broken = two_rows.at[0, 22].set(jnp.nan)
    run, arguments = on_devices(8, jax.random.key(11), broken, 5)
    place = np.asarray(run(*arguments))
    whole = gumbel_max_sharded(jax.random.key(11), two_rows, axis_name=None, block=5)
    assert place[0] == -1 and place[1] == whole[1]


def test_only_two_numbers_cross_between_devices(two_rows):
    run, arguments = on_devices(4, jax.random.key(12), two_rows, 5)
    text = run.lower(*arguments).compile().as_text()
    assert 1 <= text.count(" all-reduce(") + text.count(" all-reduce-start(") <= 2
    for other in ("all-gather(", "all-to-all(", "collective-permute("):
        assert other not in text


@pytest.mark.slow
def test_rare_events():
    """An event of probability 1e-5 in ten million draws."""
    logits = jnp.log(jnp.asarray([1 - 1e-5, 1e-5], jnp.float32))
    draw = jax.jit(lambda key: gumbel_max(key, logits, num_samples=10_000_000))
    count = int(draw(jax.random.key(13)).sum())
    assert abs(count - 100) < 5 * np.sqrt(100)


@pytest.mark.slow
def test_old_keys_narrow_types_and_keys_for_each_row(reuse_keys):
    logits = jax.random.normal(jax.random.key(14), (5, 9))
    new, old = jax.random.key(15), jax.random.PRNGKey(15)
    np.testing.assert_array_equal(gumbel_max(new, logits), gumbel_max(old, logits))
    assert gumbel_max(new, logits.astype(jnp.bfloat16)).dtype == jnp.int32
    keys = item_keys(new, 5)
    rows = gumbel_max(keys, logits)
    np.testing.assert_array_equal(rows[3], gumbel_max(keys[3], logits[3]))
    np.testing.assert_array_equal(
        gumbel_top_k(keys, logits, 2)[3], gumbel_top_k(keys[3], logits[3], 2)
    )
    several = gumbel_max(keys, logits, num_samples=3)
    np.testing.assert_array_equal(several[:, 3], gumbel_max(keys[3], logits[3], num_samples=3))


def test_bad_arguments_are_named():
    key, logits = jax.random.key(0), jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="mode must be one of"):
        gumbel_max(key, logits, mode="highest")
    with pytest.raises(ValueError, match="num_samples must be at least 0, got -1"):
        gumbel_max(key, logits, num_samples=-1)
    with pytest.raises(ValueError, match="at least one category"):
        gumbel_max(key, jnp.zeros((2, 0)))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        gumbel_top_k(key, logits, 0)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        gumbel_max_sharded(key, logits, axis_name=None, block=0)
    with pytest.raises(ValueError, match=r"keys of shape \(2,\)"):
        gumbel_max(item_keys(key, 3), logits)
