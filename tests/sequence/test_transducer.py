"""The transducer's loss: enumeration, published values, gradients of every kind, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from probjax.sequence import testing, transducer
from probjax.sequence.transducer_arcs import KINDS, Arcs

FRAMES, LABELS, CLASSES = 4, 3, 5
BLANK = -3  # the same as 2
# Live frames and target: more labels than frames, one frame, repeats, nothing at all.
CASES = [
    (4, (1, 2, 3)),
    (4, (1, 1)),
    (3, (2,)),
    (4, ()),
    (2, (1, 2, 4)),
    (1, (3, 2)),
    (0, ()),
    (0, (1,)),
    (3, (4, 4, 1)),
]
BATCH = len(CASES)
FEASIBLE = {
    kind: np.array([len(y) <= t if kind != "regular" else t > 0 or not y for t, y in CASES])
    for kind in KINDS
}


def batch(seed=0, padding=np.nan):
    """Logits and labels with rubbish in padding, lengths."""
    logits = np.random.default_rng(seed).normal(size=(BATCH, FRAMES, LABELS + 1, CLASSES)) * 2
    labels = np.full((BATCH, LABELS), 10**9)
    names = [k for k in range(CLASSES) if k != BLANK % CLASSES]
    for i, (count, target) in enumerate(CASES):
        logits[i, count:] = padding
        logits[i, :, len(target) + 1 :] = padding
        labels[i, : len(target)] = [names[k - 1] for k in target]
    frames, lengths = zip(*[(count, len(target)) for count, target in CASES], strict=True)
    return logits, labels, np.array(frames), np.array(lengths)


def log_softmax(logits):
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


@functools.cache
def truths(kind):
    logits, labels, frames, lengths = batch()
    results = []
    for z, y, count, length in zip(logits, labels, frames, lengths, strict=True):
        log_probs = log_softmax(z[:count, : length + 1])
        truth = testing.enumerate_rnnt(log_probs, y[:length], blank_id=BLANK, kind=kind)
        results.append((log_probs, y[:length], truth))
    return results


def total(loss):
    return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0))


@functools.cache
def every_kind():
    """Losses and gradients of all kinds, compiled together, as arrays of NumPy."""

    @jax.jit
    def run(logits, *rest):
        def one(kind):
            def objective(logits):
                loss = transducer.rnnt_loss(logits, *rest, kind=kind, blank_id=BLANK)
                return total(loss), loss

            (_, loss), gradient = jax.value_and_grad(objective, has_aux=True)(logits)
            return loss, gradient

        return {kind: one(kind) for kind in KINDS}

    return lambda *arguments: jax.device_get(run(*arguments))


def check_losses(losses, kind):
    wanted = [-truth.log_z for *_, truth in truths(kind)]
    np.testing.assert_allclose(losses, wanted, rtol=1e-12, atol=1e-12)


def check_gradient(gradient, kind):
    """Softmax times the node's posterior, minus the arcs'; zero in padding and if infeasible."""
    for i, (log_probs, labels, truth) in enumerate(truths(kind)):
        count, lanes = log_probs.shape[:2]
        wanted = np.zeros((FRAMES, LABELS + 1, CLASSES))
        arcs = np.zeros_like(log_probs)
        arcs[..., BLANK] = truth.blank
        for lane, label in enumerate(labels):
            arcs[:, lane, label] += truth.label[:, lane]
        live = arcs.sum(axis=-1, keepdims=True) * np.exp(log_probs) - arcs
        wanted[:count, :lanes] = live
        np.testing.assert_allclose(gradient[i], wanted, atol=1e-12)


def test_losses_and_gradients_equal_enumeration(x64):
    found = every_kind()(*batch())
    for kind in KINDS:
        check_losses(found[kind][0], kind)
        check_gradient(found[kind][1], kind)
        assert (np.isfinite(found[kind][0]) == FEASIBLE[kind]).all()


AM = [[0, 1, 2], [0, 0, 0], [0, 2, 4], [0, 3, 3]]
LM = [[0, 0, 1], [0, 1, 1], [1, 0, 1], [2, 2, 0]]
PUBLISHED = {"regular": 7.504013356022, "modified": 6.545785004194, "constrained": 9.658769328591}
WARP = np.full((3, 3, 5), 0.1)
WARP[0, 0, 1] = WARP[0, 1, 2] = WARP[1, 0, 1] = WARP[2, 0, 1] = WARP[2, 1, 2] = 0.6
WARP[0, 2, 2:4] = WARP[2, 2, 2:4] = [0.2, 0.8]
WARP[1, 1, 2] = WARP[1, 2, 2] = 0.2
WARP[1, 2, 0] = 0.7


def test_published_values(x64):
    """Of two test suites; classes that their logits lack are impossible here."""
    logits = np.full((BATCH, FRAMES, LABELS + 1, CLASSES), -np.inf)
    logits[..., :3] = np.array(AM, float)[:, None] + np.array(LM, float)
    labels = np.tile([0, 1, 0], (BATCH, 1))
    full = np.full(BATCH, FRAMES), np.full(BATCH, LABELS)
    found = every_kind()(logits, labels, *full)
    for kind, wanted in PUBLISHED.items():
        np.testing.assert_allclose(found[kind][0], wanted, rtol=1e-12)
        assert np.isfinite(found[kind][1]).all()
        assert (found[kind][1][..., 3:] == 0).all()

    logits = np.full((BATCH, FRAMES, LABELS + 1, CLASSES), np.nan)
    # Two frames with the last class as blank, two and three with the first: exchanged with class 2.
    last, first = [0, 1, 4, 3, 2], [2, 1, 0, 3, 4]
    logits[:, :3, :3] = WARP[..., last]
    logits[1:3, :3, :3] = WARP[..., first]
    labels = np.tile([1, 4, 0], (BATCH, 1))
    labels[1:3] = [1, 0, 0]
    counts = np.array([2, 2, 3] + [2] * (BATCH - 3)), np.full(BATCH, 2)
    loss, gradient = every_kind()(logits, labels, *counts)["regular"]
    wanted = [5.095666773771, 4.495666773771, 5.736725042811616]
    np.testing.assert_allclose(loss[:3], wanted, rtol=1e-12)
    assert np.isfinite(gradient).all()


@functools.cache
def by_arcs():
    """The arcs' posteriors of one kind, and minus the gradient of the loss of another."""

    @jax.jit
    def run(blank, label, *lengths):
        loss_fn, posterior_fn = transducer.rnnt_loss_from_arcs, transducer.rnnt_arc_posteriors
        objective = lambda arcs: -total(loss_fn(*arcs, *lengths, kind="constrained"))
        found = {"modified": posterior_fn(blank, label, *lengths, kind="modified")}
        return found | {"constrained": Arcs(*jax.grad(objective)((blank, label)))}

    return lambda *arguments: jax.device_get(run(*arguments))


def test_arcs_have_their_posteriors_as_gradient(x64):
    logits, labels, frames, lengths = batch()
    with np.errstate(invalid="ignore"):
        log_probs = log_softmax(logits)
    index = np.where(np.arange(LABELS) < lengths[:, None], labels, 0)[:, None, :, None]
    label = np.take_along_axis(log_probs[:, :, :-1], index, axis=-1)[..., 0]
    arguments = log_probs[..., BLANK], label, frames, lengths
    for kind, posterior in by_arcs()(*arguments).items():
        for i, (log_probs_i, y, truth) in enumerate(truths(kind)):
            count = len(log_probs_i)
            for ours, wanted, places in (
                (posterior.blank[i], truth.blank, len(y) + 1),
                (posterior.label[i], truth.label, len(y)),
            ):
                np.testing.assert_allclose(ours[:count, :places], wanted, atol=1e-12)
                assert (ours[count:] == 0).all() and (ours[:, places:] == 0).all()


def check_conservation(posterior, frames, lengths, kind):
    """Every frame ends with a blank (or has its label instead), every label comes once."""
    np.testing.assert_allclose(
        posterior.label.sum(axis=1).max(axis=-1), (lengths > 0) * 1.0, atol=1e-10
    )
    blanks = frames - lengths if kind == "modified" else frames
    np.testing.assert_allclose(posterior.blank.sum(axis=(1, 2)), blanks, atol=1e-10)


def random_arcs(seed=1):
    rng = np.random.default_rng(seed)
    frames, lengths = np.array([4, 3, 4, 3, 3, 2, 4, 4, 3]), np.array([3, 3, 0, 2, 1, 2, 3, 1, 0])
    blank = rng.normal(size=(BATCH, FRAMES, LABELS + 1)) * 3
    label = rng.normal(size=(BATCH, FRAMES, LABELS)) * 3
    return blank, label, frames, lengths


def test_arcs_are_conserved(x64):
    blank, label, frames, lengths = random_arcs()
    for kind, posterior in by_arcs()(blank, label, frames, lengths).items():
        check_conservation(posterior, frames, lengths, kind)


def test_uniform_closed_forms(x64):
    blank, label = np.full((200, 61), -np.log(50)), np.full((200, 60), -np.log(50))

    @jax.jit
    def run(blank, label):
        kinds = "regular", "modified"
        return [transducer.rnnt_loss_from_arcs(blank, label, kind=kind) for kind in kinds]

    wanted = np.array([879.771682366450, 663.021081463790])
    np.testing.assert_allclose(run(blank, label), wanted, rtol=1e-12)
    with jax.enable_x64(False):
        found = run(blank, label)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def plain(logits, labels, blank=BLANK):
    """Log-softmax and a double loop, for automatic differentiation."""
    log_probs = jax.nn.log_softmax(logits)
    frames, lanes = log_probs.shape[:2]
    row = None
    for t in range(frames):
        new = []
        for u in range(lanes):
            terms = [] if row is None else [row[u] + log_probs[t - 1, u, blank]]
            if u:
                terms.append(new[-1] + log_probs[t, u - 1, labels[u - 1]])
            new.append(functools.reduce(jnp.logaddexp, terms) if terms else jnp.zeros(()))
        row = new
    return -(row[-1] + log_probs[-1, -1, blank])


@pytest.mark.slow
def test_forward_mode_and_hessian_products_are_those_of_a_double_loop(x64):
    logits, labels = jnp.asarray(batch()[0][0]), jnp.asarray(batch()[1][0])
    move = jax.random.normal(jax.random.key(1), logits.shape, logits.dtype)

    def derivatives(function):
        square = lambda z: function(z) ** 2
        first = jax.jvp(square, (logits,), (move,))[1]
        forward_over_reverse = jax.jvp(jax.grad(square), (logits,), (move,))[1]
        reverse_over_reverse = jax.grad(lambda z: jnp.vdot(jax.grad(square)(z), move))(logits)
        return first, forward_over_reverse, reverse_over_reverse

    loss = lambda z: transducer.rnnt_loss(z, labels, blank_id=BLANK)
    ours = jax.jit(lambda: derivatives(loss))()
    wanted = jax.jit(lambda: derivatives(lambda z: plain(z, labels)))()
    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_finite_differences(x64):
    logits, *rest = batch(padding=0.0)
    move = np.random.default_rng(2).normal(size=logits.shape)
    found = every_kind()(logits, *rest)
    ends = [every_kind()(logits + step * move, *rest) for step in (1e-5, -1e-5)]
    for kind in KINDS:
        slope = np.vdot(found[kind][1], move)
        losses = (end[kind][0] for end in ends)
        up, down = (loss[np.isfinite(loss)].sum() for loss in losses)
        assert abs((up - down) / 2e-5 - slope) < 1e-7


def test_a_penalty_weighs_late_labels(x64):
    logits, labels, frames, lengths = batch()
    losses = jax.jit(functools.partial(transducer.rnnt_loss, blank_id=BLANK))(
        logits, labels, frames, lengths, delay_penalty=0.3
    )
    for i, (log_probs, _, truth) in enumerate(truths("regular")):
        late = truth.label_frames - (len(log_probs) - 1) / 2
        scores = truth.log_probs - 0.3 * late.sum(axis=-1)
        wanted = -np.logaddexp.reduce(scores) if len(scores) else np.inf
        np.testing.assert_allclose(losses[i], wanted, rtol=1e-12, atol=1e-12)


def test_infeasible_can_cost_nothing():
    logits, *rest = map(jnp.asarray, batch())

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(logits):
        options = {"blank_id": BLANK, "infeasible": "zero", "kind": "modified"}
        loss = transducer.rnnt_loss(logits, *rest, **options)
        return jnp.sum(loss**2), loss  # steep, so that the gradient has to be stopped

    (_, losses), gradient = jax.device_get(run(logits))
    for i, feasible in enumerate(FEASIBLE["modified"]):
        assert feasible or (losses[i] == 0 and (gradient[i] == 0).all())
    assert np.isfinite(gradient).all()


def test_bad_nodes_poison_their_sequence_alone(x64):
    logits, *rest = batch(padding=0.0)
    clean = every_kind()(logits, *rest)["regular"]
    others = np.arange(BATCH) != 1
    for bad in ([np.nan, 0, 0, 0, 0], [np.inf, 0, 0, 0, 0], [-np.inf] * 5):
        spoiled = logits.copy()
        spoiled[1, 2, 1] = bad
        loss, gradient = every_kind()(spoiled, *rest)["regular"]
        assert np.isnan(loss[1]) and (gradient[1] == 0).all()
        np.testing.assert_array_equal(loss[others], clean[0][others])
        np.testing.assert_array_equal(gradient[others], clean[1][others])


def spoiled_arguments():
    """Copies of the batch with one bad label or length each, in row 1."""
    for position, value in ((1, 5), (1, -1), (1, 2), (2, 5), (2, -1), (3, 4), (3, -2)):
        arguments = [x.copy() for x in batch(padding=0.0)]
        row = arguments[position][1:2]
        row[(0, 0) if position == 1 else 0] = value
        yield position, value, arguments


def test_concrete_labels_and_lengths_are_refused_by_name():
    names = [None, r"labels\[1, 0\]", r"logit_lengths\[1\]", r"label_lengths\[1\]"]
    for position, value, arguments in spoiled_arguments():
        with pytest.raises(
            ValueError, match=f"{names[position]}={value} (must be in|is the blank)"
        ):
            transducer.rnnt_loss(*map(jnp.asarray, arguments), blank_id=BLANK)


def test_traced_labels_and_lengths_poison_their_sequence_alone(x64):
    clean = every_kind()(*batch(padding=0.0))["regular"]
    others = np.arange(BATCH) != 1
    for _, _, arguments in spoiled_arguments():
        loss, gradient = every_kind()(*arguments)["regular"]
        assert np.isnan(loss[1]) and (gradient[1] == 0).all()
        np.testing.assert_array_equal(loss[others], clean[0][others])
        np.testing.assert_array_equal(gradient[others], clean[1][others])


@pytest.mark.slow
def test_checkify_tells_what_is_out_of_range():
    loss_fn = functools.partial(transducer.rnnt_loss, blank_id=BLANK, checks="checkify")
    checked = checkify.checkify(jax.jit(loss_fn), errors=checkify.user_checks)
    assert checked(*map(jnp.asarray, batch(padding=0.0)))[0].get() is None
    for position, _, arguments in spoiled_arguments():
        error = checked(*map(jnp.asarray, arguments))[0].get()
        assert ["labels", "logit_lengths", "label_lengths"][position - 1] in error


def test_static_mistakes_are_named():
    logits, labels = jnp.zeros((2, 3, 2, 4)), jnp.ones((2, 1), int)
    for arguments, options, message in [
        ((logits[0, 0], labels), {}, r"logits must have shape \(T, U \+ 1, V\)"),
        ((logits, labels[:, :0]), {}, r"logits must have shape \(2, 3, 1, any\)"),
        ((logits, labels[:1]), {}, r"labels must have shape \(2, any\), got \(1, 1\)"),
        ((logits, labels.astype(jnp.float32)), {}, "labels must be integers, got float32"),
        ((logits, labels, jnp.array([3])), {}, r"logit_lengths must have shape \(2,\)"),
        ((logits, labels), {"blank_id": 4}, r"blank_id=4 must be in \[-4, 4\)"),
        ((logits, labels), {"infeasible": "nan"}, "infeasible must be one of"),
        ((logits, labels), {"checks": "none"}, "checks must be one of"),
        ((logits, labels), {"kind": "monotone"}, "kind must be one of"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            jax.eval_shape(lambda: transducer.rnnt_loss(*arguments, **options))  # noqa: B023


def test_half_precision_is_computed_in_single(x64):
    logits, *rest = batch(padding=0.0)
    half = logits.astype(jnp.bfloat16)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(half):
        loss = transducer.rnnt_loss(half, *rest, blank_id=BLANK)
        return total(loss), loss

    (_, loss), gradient = jax.device_get(run(half))
    wanted, wanted_gradient = every_kind()(half.astype(np.float64), *rest)["regular"]
    assert loss.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(
        gradient.astype(np.float64), wanted_gradient, rtol=2.0**-7, atol=1e-6
    )


@pytest.mark.slow
def test_one_sequence_eagerly_is_the_batch(x64):
    arguments = tuple(map(jnp.asarray, batch()))
    losses = every_kind()(*arguments)["regular"][0]
    one = transducer.rnnt_loss(*(x[8] for x in arguments), blank_id=BLANK)
    assert one.shape == () and abs(one - losses[8]) < 1e-13
    mapped = jax.jit(jax.vmap(functools.partial(transducer.rnnt_loss, blank_id=BLANK)))(*arguments)
    np.testing.assert_array_equal(mapped, losses)


def test_first_blank_or_not_then_which(x64):
    rng = np.random.default_rng(3)
    blank, label = rng.normal(size=3), rng.normal(size=(3, 4))
    hat = jax.jit(transducer.hat_log_probs, static_argnames="blank_id")
    probs = np.exp(hat(blank, label, blank_id=-2))
    stop = 1 / (1 + np.exp(-blank))
    wanted = np.exp(label) / np.exp(label).sum(axis=-1, keepdims=True) * (1 - stop)[:, None]
    np.testing.assert_allclose(np.delete(probs, 3, axis=-1), wanted, rtol=1e-12)
    np.testing.assert_allclose(probs[:, 3], stop, rtol=1e-12)
    with pytest.raises(ValueError, match=r"blank_id=5 must be in \[-5, 5\)"):
        hat(blank, label, blank_id=5)


@pytest.mark.slow
def test_single_precision_on_a_long_input(x64):
    """Errors of loss and gradient at T=400, U=100 against double precision."""
    logits = np.random.default_rng(4).normal(size=(400, 101, 16))
    labels = jnp.asarray(np.random.default_rng(5).integers(1, 16, size=100))
    run = jax.jit(jax.value_and_grad(transducer.rnnt_loss))
    wanted, wanted_gradient = run(jnp.asarray(logits), labels)
    with jax.enable_x64(False):
        loss, gradient = run(jnp.asarray(logits, jnp.float32), labels.astype(jnp.int32))
    assert abs(float(loss) / float(wanted) - 1) < 5e-7
    assert np.abs(np.asarray(gradient, np.float64) - np.asarray(wanted_gradient)).max() < 2e-5


@pytest.mark.slow
def test_the_checks_kill_mistakes(x64):
    logits, labels, frames, lengths = batch()
    found = every_kind()(logits, labels, frames, lengths)
    # The final blank forgotten.
    last = np.array([
        truth[0][-1, -1, BLANK] if len(truth[0]) else 0.0 for truth in truths("regular")
    ])  # fmt: skip
    check_losses(found["regular"][0], "regular")
    with pytest.raises(AssertionError):
        check_losses(found["regular"][0] + last, "regular")
    # The modified kind staying on its frame, and the other way round.
    for one, other in (("modified", "regular"), ("regular", "modified")):
        with pytest.raises(AssertionError):
            check_losses(found[one][0], other)
    # Labels and blanks exchanged, the sign of the arcs, the label of the lane before.
    check_gradient(found["regular"][1], "regular")
    for mutant in (
        -found["regular"][1],
        np.roll(found["regular"][1], 1, axis=-1),
        np.roll(found["regular"][1], 1, axis=2),
    ):
        with pytest.raises(AssertionError):
            check_gradient(mutant, "regular")
    # A frame's blank lost.
    blank, label, *lengths = random_arcs()
    posterior = by_arcs()(blank, label, *lengths)["constrained"]
    check_conservation(posterior, *lengths, "constrained")
    with pytest.raises(AssertionError):
        mutant = posterior._replace(
            blank=posterior.blank * (np.arange(FRAMES) < FRAMES - 1)[:, None]
        )
        check_conservation(mutant, *lengths, "constrained")
