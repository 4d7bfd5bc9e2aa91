"""CTC: enumeration, reference values, gradients of every kind, bad input, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from jax.sharding import PartitionSpec

from probjax import sharding
from probjax.sequence import ctc, emissions, testing

FRAMES, CLASSES, LABELS = 5, 4, 3
# Live frames and target: repeats that just fit, one frame too few, nothing at all.
CASES = [
    (5, (1, 2, 3)),
    (5, (1, 1)),
    (5, (2, 2, 2)),
    (4, (3,)),
    (4, (1, 1, 1)),
    (5, ()),
    (0, ()),
    (0, (1,)),
    (3, (3, 1)),
]
BATCH = len(CASES)


def batch(seed=0, blank=0, padding=np.nan):
    """Logits with rubbish in padding, labels with rubbish in padding, lengths."""
    logits = np.random.default_rng(seed).normal(size=(BATCH, FRAMES, CLASSES)) * 2
    labels = np.full((BATCH, LABELS), 10**9)
    names = [k for k in range(CLASSES) if k != blank % CLASSES]
    for i, (count, target) in enumerate(CASES):
        logits[i, count:] = padding
        labels[i, : len(target)] = [names[k - 1] for k in target]
    frames, lengths = zip(*[(count, len(target)) for count, target in CASES], strict=True)
    return logits, labels, np.array(frames), np.array(lengths)


@functools.cache
def truths(seed=0, blank=0):
    logits, labels, frames, lengths = batch(seed, blank)
    results = []
    for z, y, count, length in zip(logits, labels, frames, lengths, strict=True):
        log_probs = z[:count] - np.log(np.exp(z[:count]).sum(axis=-1, keepdims=True))
        results.append((log_probs, testing.enumerate_ctc(log_probs, y[:length], blank_id=blank)))
    return results


def log_softmax(logits):
    live = np.isfinite(logits)
    safe = np.where(live, logits, 0)
    return np.where(live, safe - np.log(np.exp(safe).sum(axis=-1, keepdims=True)), np.nan)


@functools.cache
def both(function, blank_id=0):
    """Losses and the gradient of the sum of the finite ones, compiled, as NumPy arrays.

    To take those apart compiles nothing.
    """

    def total(scores, *rest):
        loss = function(scores, *rest, blank_id=blank_id)
        return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0)), loss

    program = jax.jit(jax.value_and_grad(total, has_aux=True))
    return lambda *arguments: jax.device_get(program(*arguments))


def check_values(loss_fn, blank=0):
    """Losses equal enumeration, also where targets do not fit, are empty, or have no frames."""
    losses = loss_fn(*batch(0, blank))
    wanted = [-truth.log_z for _, truth in truths(0, blank)]
    np.testing.assert_allclose(losses, wanted, rtol=1e-12, atol=1e-12)


def check_gradient(gradient_fn, blank=0):
    """Softmax minus occupancy; zero in padding and for targets that do not fit."""
    gradient = gradient_fn(*batch(0, blank))
    for i, (log_probs, truth) in enumerate(truths(0, blank)):
        feasible = np.isfinite(truth.log_z)
        wanted = np.zeros((FRAMES, CLASSES))
        wanted[: len(log_probs)] = (np.exp(log_probs) - truth.occupancy) * feasible
        np.testing.assert_allclose(gradient[i], wanted, atol=1e-12)


def check_log_prob_gradient(gradient_fn):
    """Minus occupancy, by enumeration."""
    logits, *rest = batch()
    gradient = gradient_fn(log_softmax(logits), *rest)
    for i, (log_probs, truth) in enumerate(truths()):
        np.testing.assert_allclose(gradient[i, : len(log_probs)], -truth.occupancy, atol=1e-12)
        assert (gradient[i, len(log_probs) :] == 0).all()


@pytest.mark.parametrize("blank", [0, 2, -1])
def test_losses_and_gradients_equal_enumeration(x64, blank):
    compiled = both(ctc.ctc_loss, blank)
    check_values(lambda *a: compiled(*a)[0][1], blank)
    check_gradient(lambda *a: compiled(*a)[1], blank)


def test_log_probs_have_their_own_gradient(x64):
    compiled = both(ctc.ctc_loss_from_log_probs)
    check_values(lambda logits, *rest: compiled(log_softmax(logits), *rest)[0][1])
    check_log_prob_gradient(lambda *a: compiled(*a)[1])


def test_the_reference_agrees(x64):
    compiled = both(ctc.ctc_loss_reference)
    check_values(lambda *a: compiled(*a)[0][1])
    check_gradient(lambda *a: compiled(*a)[1])


@pytest.mark.slow
def test_one_sequence_eagerly_is_the_batch(x64):
    arguments = tuple(map(jnp.asarray, batch()))
    losses = both(ctc.ctc_loss)(*arguments)[0][1]
    one = ctc.ctc_loss(*(x[8] for x in arguments))
    assert one.shape == () and abs(one - losses[8]) < 1e-13
    looped = jax.jit(jax.vmap(ctc.ctc_loss))(*arguments)
    np.testing.assert_array_equal(looped, losses)


def pad_to(logits, frames, classes):
    padding = ((0, frames - len(logits)), (0, 0))
    return np.pad(np.asarray(logits, float), padding, constant_values=np.nan)


GRAVES = np.log(
    [
        [0.633766, 0.221185, 0.0917319, 0.0129757, 0.0142857, 0.0260553],
        [0.111121, 0.588392, 0.278779, 0.0055756, 0.00569609, 0.010436],
        [0.0357786, 0.633813, 0.321418, 0.00249248, 0.00272882, 0.0037688],
        [0.0663296, 0.643849, 0.280111, 0.00283995, 0.0035545, 0.00331533],
        [0.458235, 0.396634, 0.123377, 0.00648837, 0.00903441, 0.00623107],
    ]
)
GRAVES_TWO = np.log(
    [
        [0.30176, 0.28562, 0.0831517, 0.0862751, 0.0816851, 0.161508],
        [0.24082, 0.397533, 0.0557226, 0.0546814, 0.0557528, 0.19549],
        [0.230246, 0.450868, 0.0389607, 0.038309, 0.0391602, 0.202456],
        [0.280884, 0.429522, 0.0326593, 0.0339046, 0.0326856, 0.190345],
        [0.423286, 0.315517, 0.0338439, 0.0393744, 0.0339315, 0.154046],
    ]
)
PUBLISHED = [
    ([[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1]], [1, 2], 0, 2.462858391547),
    ([[0.2] * 5], [1], 0, 1.609437912434),
    (np.arange(1, 16).reshape(3, 5), [3, 3], 0, 7.355743187813),
    (-np.array([[5, 4, 3, 2, 1], [10, 9, 8, 7, 6], [15, 14, 13, 12, 11]]), [2, 3], 0, 4.938849867),
    (GRAVES, [0, 1, 2, 1, 0], 5, 3.342112585098),
    (GRAVES_TWO, [0, 1, 1, 0], 5, 5.422621730988),
]


def test_published_values(x64):
    """Of several test suites; padded to one shape for each position of the blank."""
    for blank, frames, classes, labels in ((0, 3, 5, 2), (5, 7, 6, 5)):
        chosen = [case for case in PUBLISHED if case[2] == blank]
        logits = np.stack([pad_to(case[0], frames, classes) for case in chosen])
        counts = np.array([len(case[0]) for case in chosen])
        targets = np.array([case[1] + [0] * (labels - len(case[1])) for case in chosen])
        lengths = np.array([len(case[1]) for case in chosen])
        (_, losses), gradient = both(ctc.ctc_loss, blank)(logits, targets, counts, lengths)
        np.testing.assert_allclose(losses, [case[3] for case in chosen], rtol=1e-10)
        assert np.isfinite(gradient).all()
        if blank == 0:
            wanted = np.full((2, 5), 0.1770312168)
            wanted[[0, 1], [1, 2]] = -0.7081248673
            np.testing.assert_allclose(gradient[0, :2], wanted, atol=1e-10)


@functools.cache
def _one_by_one():
    program = jax.jit(jax.value_and_grad(ctc.ctc_loss))
    return lambda *arguments: jax.device_get(program(*arguments))


def test_a_certain_target_never_costs_less_than_nothing():
    loss, gradient = _one_by_one()(np.float32([[0, 17], [0, 17]]), np.array([1]))
    assert 0 <= loss <= 1e-6
    assert (np.abs(gradient) < 1e-6).all()


@pytest.mark.parametrize("low", [-1e30, -np.inf])
def test_a_needed_class_that_is_next_to_impossible(low):
    logits = np.random.default_rng(0).normal(size=(50, 15)).astype(np.float32)
    logits[:, 2] = low
    loss, gradient = _one_by_one()(logits, np.arange(1, 11))
    assert loss == np.inf if low == -np.inf else 0.9e30 < loss < 1.1e30
    assert np.isfinite(gradient).all()
    if low == -np.inf:
        assert (gradient == 0).all()


def test_an_unused_class_may_be_impossible(x64):
    logits, *rest = batch(padding=0.0)
    logits[:, :, 3] = -np.inf
    (_, losses), gradient = both(ctc.ctc_loss)(logits, *rest)
    assert np.isfinite(gradient).all() and (gradient[..., 3] == 0).all()
    wanted = testing.enumerate_ctc(log_softmax(logits[1, :, :3]), [1, 1])
    assert abs(losses[1] + wanted.log_z) < 1e-12
    (_, reference), _ = both(ctc.ctc_loss_reference)(logits, *rest)
    np.testing.assert_allclose(losses, reference, rtol=1e-12)


def test_uniform_logits_at_two_thousand_frames(x64):
    labels, logits = np.array([1] * 100 + [2] * 100), np.zeros((2000, 30))
    loss = float(jax.jit(ctc.ctc_loss)(logits, labels))
    assert abs(loss / 5804.947321575159 - 1) < 1e-12
    with jax.enable_x64(False):
        loss = jax.jit(ctc.ctc_loss)(logits, labels)
    assert abs(float(loss) / 5804.947321575159 - 1) < 5e-7


def test_infeasible_can_cost_nothing():
    @jax.jit
    def run(logits, *rest):
        # The gradient even where the loss, infinite, goes through something steep.
        square = lambda z: jnp.sum(ctc.ctc_loss(z, *rest) ** 2)
        return ctc.ctc_loss(logits, *rest, infeasible="zero"), jax.grad(square)(logits)

    losses, gradient = jax.device_get(run(*batch()))
    assert (losses[[4, 7]] == 0).all() and (losses[:4] > 0).all()
    assert (gradient[[4, 7]] == 0).all()


def test_bad_frames_poison_their_sequence_alone():
    logits, *rest = batch(padding=0.0)
    compiled = both(ctc.ctc_loss)
    (_, clean), clean_gradient = compiled(logits, *rest)
    for bad in ([np.nan, 0, 0, 0], [np.inf, 0, 0, 0], [-np.inf] * 4):
        spoiled = logits.copy()
        spoiled[1, 2] = bad
        (_, losses), gradient = compiled(spoiled, *rest)
        assert np.isnan(losses[1]) and (gradient[1] == 0).all()
        others = np.arange(BATCH) != 1
        np.testing.assert_array_equal(losses[others], clean[others])
        np.testing.assert_array_equal(gradient[others], clean_gradient[others])


def spoiled_arguments():
    """The clean batch and copies with one bad label or length each, in row 1."""
    clean = batch(padding=0.0)
    bad = []
    for position, value in ((1, 4), (1, -1), (1, 0), (2, 6), (2, -1), (3, 4), (3, -2)):
        arguments = [x.copy() for x in clean]
        row = arguments[position][1:2]
        row[(0, 0) if position == 1 else 0] = value
        bad.append((position, value, arguments))
    return clean, bad


def test_concrete_labels_and_lengths_are_refused_by_name():
    _, bad = spoiled_arguments()
    names = [None, r"labels\[1, 0\]", r"logit_lengths\[1\]", r"label_lengths\[1\]"]
    for position, value, arguments in bad:
        with pytest.raises(
            ValueError, match=f"{names[position]}={value} (must be in|is the blank)"
        ):
            ctc.ctc_loss(*map(jnp.asarray, arguments))


def test_traced_labels_and_lengths_poison_their_sequence_alone():
    clean, bad = spoiled_arguments()
    compiled = both(ctc.ctc_loss)
    (_, losses), gradient = compiled(*clean)
    others = np.arange(BATCH) != 1
    checked = checkify.checkify(
        jax.jit(functools.partial(ctc.ctc_loss, checks="checkify")), errors=checkify.user_checks
    )
    assert checked(*clean)[0].get() is None
    for position, _, arguments in bad:
        (_, poisoned), poisoned_gradient = compiled(*arguments)
        assert np.isnan(poisoned[1]) and (poisoned_gradient[1] == 0).all()
        np.testing.assert_array_equal(poisoned[others], losses[others])
        np.testing.assert_array_equal(poisoned_gradient[others], gradient[others])
        error = checked(*arguments)[0].get()
        assert ["labels", "logit_lengths", "label_lengths"][position - 1] in error


def test_static_mistakes_are_named():
    logits, labels = jnp.zeros((2, 3, 4)), jnp.ones((2, 1), int)
    for arguments, options, message in [
        ((logits[0, 0], labels), {}, "logits must have shape"),
        ((logits, labels[:1]), {}, r"labels must have shape \(2, any\), got \(1, 1\)"),
        ((logits, labels.astype(jnp.float32)), {}, "labels must be integers, got float32"),
        ((logits, labels, jnp.array([3])), {}, r"logit_lengths must have shape \(2,\)"),
        ((logits, labels, None, jnp.array([1.0, 1.0])), {}, "label_lengths must be integers"),
        ((logits, labels), {"blank_id": 4}, r"blank_id=4 must be in \[-4, 4\)"),
        ((logits, labels), {"infeasible": "nan"}, "infeasible must be one of"),
        ((logits, labels), {"checks": "none"}, "checks must be one of"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            ctc.ctc_loss(*arguments, **options)


def test_half_precision_is_computed_in_single():
    logits, *rest = batch(padding=0.0)
    half = logits.astype(jnp.bfloat16)
    compiled = both(ctc.ctc_loss)
    (_, losses), gradient = compiled(half, *rest)
    (_, wanted), wanted_gradient = compiled(half.astype(jnp.float32), *rest)
    assert losses.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(losses, wanted)
    np.testing.assert_array_equal(gradient, wanted_gradient.astype(jnp.bfloat16))


@pytest.mark.slow
def test_forward_mode_and_hessian_products_are_the_references(x64):
    logits, *rest = map(jnp.asarray, batch(padding=0.0))
    move = jax.random.normal(jax.random.key(1), logits.shape, logits.dtype)

    def derivatives(function):
        def total(z):
            loss = function(z, *rest)
            return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0) ** 2)

        first = jax.jvp(total, (logits,), (move,))[1]
        forward_over_reverse = jax.jvp(jax.grad(total), (logits,), (move,))[1]
        reverse_over_reverse = jax.grad(lambda z: jnp.vdot(jax.grad(total)(z), move))(logits)
        return first, forward_over_reverse, reverse_over_reverse

    ours = jax.jit(lambda: derivatives(ctc.ctc_loss))()
    reference = jax.jit(lambda: derivatives(ctc.ctc_loss_reference))()
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


def test_finite_differences(x64):
    logits, *rest = batch(padding=0.0)
    compiled = both(ctc.ctc_loss)
    move = np.random.default_rng(2).normal(size=logits.shape)
    gradient = compiled(logits, *rest)[1]
    up, down = (compiled(logits + step * move, *rest)[0][0] for step in (1e-5, -1e-5))
    assert abs((up - down) / 2e-5 - np.vdot(gradient, move)) < 1e-8


def test_invariances(x64):
    """Frame shifts, exchanged classes, time and target reversed together, exchanged rows."""
    logits, labels, frames, lengths = batch(padding=0.0)
    compiled = both(ctc.ctc_loss)
    (_, losses), gradient = compiled(logits, labels, frames, lengths)
    shifts = np.random.default_rng(3).normal(size=(BATCH, FRAMES, 1)) * 100
    (_, shifted), _ = compiled(logits + shifts, labels, frames, lengths)
    np.testing.assert_allclose(shifted, losses, rtol=1e-10)

    order = np.array([2, 0, 3, 1])  # class k is found at place `where[k]` afterwards
    where = np.argsort(order)
    live = np.arange(LABELS) < lengths[:, None]
    renamed = np.where(live, where[np.where(live, labels, 0)], labels)
    (_, exchanged), _ = both(ctc.ctc_loss, int(where[0]))(
        logits[:, :, order], renamed, frames, lengths
    )
    np.testing.assert_allclose(exchanged, losses, rtol=1e-12)

    def turned(x, counts):
        places = np.arange(x.shape[1])
        index = np.where(places < counts[:, None], counts[:, None] - 1 - places, places)
        return np.stack([row[i] for row, i in zip(x, index, strict=True)])

    (_, reverse), reverse_gradient = compiled(
        turned(logits, frames), turned(labels, lengths), frames, lengths
    )
    np.testing.assert_allclose(reverse, losses, rtol=1e-12)
    np.testing.assert_allclose(turned(reverse_gradient, frames), gradient, atol=1e-12)

    rows = np.arange(BATCH)[::-1]
    (_, moved), _ = compiled(logits[rows], labels[rows], frames[rows], lengths[rows])
    np.testing.assert_array_equal(moved[rows], losses)


@pytest.mark.slow
def test_optax_agrees_where_it_is_right(x64):
    logits, labels, frames, lengths = batch(padding=0.0)
    rows = [0, 1, 2, 3, 5, 8]
    logit_paddings = jnp.asarray(np.arange(FRAMES) >= frames[:, None], float)
    label_paddings = jnp.asarray(np.arange(LABELS) >= lengths[:, None], float)
    safe = jnp.asarray(np.where(label_paddings == 1, 0, labels))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = optax.ctc_loss(jnp.asarray(logits), logit_paddings, safe, label_paddings)
    (_, ours), _ = both(ctc.ctc_loss)(logits, labels, frames, lengths)
    np.testing.assert_allclose(ours[rows], np.asarray(theirs)[rows], rtol=1e-9)


def test_as_many_frames_as_labels_is_cross_entropy(x64):
    logits, labels = np.random.default_rng(4).normal(size=(3, 4)), np.array([2, 1, 3])
    wanted = -log_softmax(logits)[np.arange(3), labels].sum()
    assert abs(_one_by_one()(logits, labels)[0] - wanted) < 1e-13


@pytest.mark.slow
def test_shard_map_with_its_own_check():
    """Sharded logits, replicated labels: the same losses and gradients as on one device."""
    logits, _, frames, _ = (jnp.asarray(x[:8]) for x in batch(padding=0.0))
    labels, length = jnp.array([1, 2]), jnp.array(2)

    def local(logits, frames, labels, length):
        def total(logits):
            loss = jax.vmap(ctc.ctc_loss, (0, None, 0, None))(logits, labels, frames, length)
            return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0)), loss

        (_, loss), gradient = jax.value_and_grad(total, has_aux=True)(logits)
        return loss, gradient

    mesh, spec, whole = sharding.make_mesh(8), PartitionSpec("items"), PartitionSpec()
    in_specs = (spec, spec, whole, whole)
    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=spec))
    for one, other in zip(
        sharded(logits, frames, labels, length),
        jax.jit(local)(logits, frames, labels, length),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_reductions():
    loss, lengths = jnp.array([6.0, 3.0, 5.0]), jnp.array([3, 0, 5])
    assert ctc.reduce_loss(loss, lengths, "sum") == 14
    np.testing.assert_allclose(ctc.reduce_loss(loss, lengths), 14 / 3, rtol=1e-6)
    assert ctc.reduce_loss(loss, lengths, "torch_mean") == 2
    with pytest.raises(ValueError, match="kind must be one of"):
        ctc.reduce_loss(loss, lengths, "median")
    assert ctc.hybrid_loss(jnp.array([jnp.inf]), jnp.array([2.0]), 0.0) == 2
    assert ctc.hybrid_loss(jnp.array([4.0]), jnp.array([2.0]), 0.25) == 2.5
    with pytest.raises(ValueError, match=r"weight must be in \[0, 1\], got 1.5"):
        ctc.hybrid_loss(jnp.ones(1), jnp.ones(1), 1.5)


@pytest.mark.slow
def test_many_classes_take_the_other_way_back():
    assert CLASSES <= emissions.FEW_CLASSES < 100
    logits = jax.random.normal(jax.random.key(5), (3, 100))
    ours = jax.jit(jax.grad(ctc.ctc_loss))(logits, jnp.array([70, 70]))
    reference = jax.jit(jax.grad(ctc.ctc_loss_reference))(logits, jnp.array([70, 70]))
    np.testing.assert_allclose(ours, reference, atol=2e-6)
