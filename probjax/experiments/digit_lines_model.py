"""The parts of the digit-lines experiment: two models of a line, their objective, how they read.

>>> from probjax.experiments import digit_lines_model
>>> digit_lines_model.BLANK, digit_lines_model.NUM_CLASSES
(10, 11)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from probjax import sequence
from probjax.core import item_key, stream
from probjax.core.keys import PRNGKey
from probjax.datasets import Images
from probjax.datasets.digit_lines import DigitLines, LineLayout, compose_line, compose_lines
from probjax.experiments import training
from probjax.networks.line_encoder import LineEncoder, LineTransducer
from probjax.sequence.alignment import ctc_align
from probjax.sequence.transducer import rnnt_arc_posteriors, rnnt_loss
from probjax.sequence.transducer_alignment import rnnt_align
from probjax.sequence.transducer_decoding import rnnt_beam, rnnt_greedy

BLANK = 10
"""Class of the blank; the digits are their own classes."""
NUM_CLASSES = 11
"""Ten digits and the blank."""
COLUMNS_PER_FRAME = 2
"""Columns of the image that a frame stands over."""
MAX_READ = 16
"""Labels that a hypothesis may have; a line has at most nine."""
CTC_WEIGHT = 0.3
"""Share of a CTC loss over the encoder's features in the objective of the transducer."""
KIND = "modified"
"""Of the transducer's lattice: a label ends its frame. In a regular one the frame that asks for a 3
behind a 3 could not be told from the frame that has just written it by the last label alone."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The encoder, and what a transducer adds."""

    widths: tuple[int, int, int] = (64, 128, 128)
    """Channels of the three convolutions."""
    kernel_size: int = 5
    """Columns that each of them looks at."""
    joint_width: int = 128
    """Width of the transducer's predictor and joint."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Adam on lines of which none is seen twice."""

    num_steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    """Lines in a step."""
    learning_rate: float = 3e-3
    """Highest rate of Adam, decayed to zero by a cosine."""
    warmup_steps: int = 20
    """Steps of linear growth of the rate."""
    ema_decay: float = 0.98
    """Decay of the parameters' moving average."""
    chunk_size: int = 50
    """Steps between two looks of the host."""
    checkpoint_every: int = 100
    """Steps between two checkpoints."""


class Reading(NamedTuple):
    """What a model makes of lines, and how it aligns their true labels."""

    tokens: Int[Array, "batch most"]
    """Digits read greedily, then -1."""
    lengths: Int[Array, "batch"]
    """How many."""
    loss: Float[Array, "batch"]
    """Negative log probability of the true labels."""
    starts: Int[Array, "batch labels"]
    """First frame of each true label on the best alignment, then -1."""
    ends: Int[Array, "batch labels"]
    """One past its last frame, then -1."""
    confidence: Float[Array, "batch labels"]
    """Log probability of each label on it, added up over its frames; 0 behind the labels."""
    occupancy: Float[Array, "batch frames classes"]
    """Probability of each class at each frame, given the true labels; of a transducer, how often
    each class is expected there."""


class Found(NamedTuple):
    """The best hypothesis of a beam search for each line."""

    tokens: Int[Array, "batch most"]
    """Digits, then -1."""
    lengths: Int[Array, "batch"]
    """How many."""
    is_overflow: Bool[Array, "batch"]
    """Whether `MAX_READ` cost a hypothesis that would have stayed."""


class Model(NamedTuple):
    """One of the two models, as pure functions of its parameters."""

    init: Callable[[PRNGKey], Any]
    """Key to parameters."""
    loss_fn: Callable[[Any, DigitLines], Array]
    """Negative log probability of each line's labels `(B,)`."""
    read: Callable[[Any, DigitLines], Reading]
    """What is made of lines."""
    search: Callable[[Any, Array, int], Found]
    """What a beam search makes of images, given its width."""


def make_ctc(config: NetworkConfig) -> Model:
    """Make the model that names every frame by itself.

    Args:
        config: its sizes.

    Returns:
        The model; its loss is `sequence.ctc_loss`.

    Example:
        >>> model = make_ctc(NetworkConfig(widths=(4, 4, 4)))
        >>> params = jax.eval_shape(model.init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        427
    """
    net = LineEncoder(NUM_CLASSES, config.widths, config.kernel_size)

    def init(key: PRNGKey) -> Any:
        return net.init(key, _blank_image())

    def loss_fn(params: Any, lines: DigitLines) -> Array:
        logits = net.apply(params, lines.images)
        return sequence.ctc_loss(logits, lines.labels, None, lines.label_lengths, blank_id=BLANK)

    def read(params: Any, lines: DigitLines) -> Reading:
        logits = net.apply(params, lines.images)
        target = (logits, lines.labels, None, lines.label_lengths)
        greedy = sequence.greedy_decode(logits, blank_id=BLANK)
        posterior = sequence.ctc_posteriors(*target, blank_id=BLANK)
        spans = ctc_align(*target, blank_id=BLANK)
        return Reading(
            greedy.tokens,
            greedy.lengths,
            posterior.loss,
            spans.starts,
            spans.ends,
            spans.token_log_probs,
            sequence.vocab_occupancy(posterior, lines.labels, NUM_CLASSES, blank_id=BLANK),
        )

    def search(params: Any, images: Array, width: int) -> Found:
        logits = net.apply(params, images)
        found = sequence.beam_decode(
            logits, beam_width=width, max_len=MAX_READ, num_best=1, blank_id=BLANK
        )
        return Found(found.tokens[:, 0], found.lengths[:, 0], found.is_overflow)

    return Model(init, loss_fn, read, search)


def make_transducer(config: NetworkConfig) -> Model:
    """Make the model that scores a label by the frame and by what was written before.

    Args:
        config: its sizes.

    Returns:
        The model; its loss is `rnnt_loss`.

    Example:
        >>> model = make_transducer(NetworkConfig(widths=(4, 4, 4), joint_width=8))
        >>> params = jax.eval_shape(model.init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        842
    """
    net = LineTransducer(NUM_CLASSES, BLANK, config.joint_width, config.widths, config.kernel_size)

    def init(key: PRNGKey) -> Any:
        return net.init(key, _blank_image(), jnp.zeros((1, 1), jnp.int32))

    def target_of(params: Any, lines: DigitLines) -> tuple[Array, Array, None, Array]:
        return (
            net.apply(params, lines.images, lines.labels),
            lines.labels,
            None,
            lines.label_lengths,
        )

    def loss_fn(params: Any, lines: DigitLines) -> Array:
        loss = rnnt_loss(*target_of(params, lines), kind=KIND, blank_id=BLANK)
        # Alone, the predictor learns to write digits blindly, and the encoder nothing for a long
        # time: naming frames gives it something to do from the first step.
        frames = net.apply(
            params, net.apply(params, lines.images, method="encode"), method="name_frames"
        )
        ctc = sequence.ctc_loss(frames, lines.labels, None, lines.label_lengths, blank_id=BLANK)
        return sequence.hybrid_loss(ctc, loss, CTC_WEIGHT)

    def networks(params: Any) -> tuple[Any, Any, tuple[()]]:
        """What a decoder is given: the predictor, which has eleven answers, and the joint."""
        classes = jnp.arange(NUM_CLASSES, dtype=jnp.int32)
        answers = net.apply(params, classes, method="predict")
        return (
            lambda state, token: (state, answers[token]),
            lambda seen, written: net.apply(params, seen, written, method="join"),
            (),
        )

    def read(params: Any, lines: DigitLines) -> Reading:
        target = target_of(params, lines)
        seen = net.apply(params, lines.images, method="encode")
        greedy = rnnt_greedy(*networks(params), seen, max_len=MAX_READ, kind=KIND, blank_id=BLANK)
        best = rnnt_align(*target, kind=KIND, blank_id=BLANK)
        log_probs = jax.nn.log_softmax(target[0], axis=-1)
        written = jax.nn.one_hot(lines.labels, NUM_CLASSES, dtype=log_probs.dtype)
        label_lp = jnp.sum(log_probs[:, :, :-1] * written[:, None], axis=-1)
        arcs = rnnt_arc_posteriors(
            log_probs[..., BLANK], label_lp, None, lines.label_lengths, kind=KIND
        )
        expected = jnp.einsum(
            "btu,buv->btv", arcs.label, written, precision=jax.lax.Precision.HIGHEST
        )
        return Reading(
            greedy.tokens,
            greedy.length,
            rnnt_loss(*target, kind=KIND, blank_id=BLANK),
            best.label_frames,
            jnp.where(best.label_frames < 0, -1, best.label_frames + 1),
            best.label_log_probs,
            expected.at[..., BLANK].set(jnp.sum(arcs.blank, axis=-1)),
        )

    def search(params: Any, images: Array, width: int) -> Found:
        seen = net.apply(params, images, method="encode")
        found = rnnt_beam(
            *networks(params), seen, beam_width=width, max_len=MAX_READ, kind=KIND,
            blank_id=BLANK,
        )  # fmt: skip
        return Found(found.tokens[:, 0], found.lengths[:, 0], found.is_overflow)

    return Model(init, loss_fn, read, search)


LOSSES: dict[str, Callable[[NetworkConfig], Model]] = {
    "ctc": make_ctc,
    "transducer": make_transducer,
}
"""How each loss makes its model."""


class Objective(NamedTuple):
    """What is trained: everything that a training step is made of."""

    params: Any
    """Parameters to start from."""
    loss_fn: training.LossFn
    """`loss_fn(params, keys, lines)`, one loss for each line; the keys are not needed."""
    batch_fn: Callable[[Array, Array], DigitLines]
    """A step's key and the numbers of its lines to lines."""
    numbers: Int[Array, "batch"]
    """The numbers of the lines of a step."""
    optimizer: optax.GradientTransformation
    """Adam on its schedule."""


def make_objective(key: PRNGKey, config: TrainingConfig, model: Model, glyphs: Images) -> Objective:
    """Put model, endless text and optimiser together.

    Args:
        key: the run's key.
        config: the training's config.
        model: what is trained.
        glyphs: the single digits that lines are composed from.

    Returns:
        The objective.

    Example:
        >>> from probjax.datasets.digit_lines import load_glyphs
        >>> objective = make_objective(jax.random.key(0), TrainingConfig(num_steps=10),
        ...                            make_ctc(NetworkConfig(widths=(4, 4, 4))), load_glyphs())
        >>> objective.batch_fn(jax.random.key(0), objective.numbers[:3]).images.shape
        (3, 10, 100)
    """

    def loss_fn(params: Any, keys: Array, lines: DigitLines) -> Array:
        del keys
        return model.loss_fn(params, lines)

    def batch_fn(key: Array, numbers: Array) -> DigitLines:
        text = stream(key, "augment")
        return jax.vmap(lambda number: compose_line(item_key(text, number), glyphs))(numbers)

    params = jax.jit(model.init)(stream(key, "init"))
    numbers = jnp.arange(config.batch_size, dtype=jnp.int32)
    optimizer = training.adam(config.learning_rate, config.num_steps, config.warmup_steps)
    return Objective(params, loss_fn, batch_fn, numbers, optimizer)


def fresh_lines(glyphs: Images, num_lines: int) -> DigitLines:
    """Compose lines to judge by: the same for every seed of a run, and in no run's training.

    Args:
        glyphs: the single digits.
        num_lines: how many.

    Returns:
        Lines.

    Example:
        >>> from probjax.datasets.digit_lines import load_glyphs
        >>> fresh_lines(load_glyphs(split="test"), 3).images.shape
        (3, 10, 100)
    """
    text = stream(jax.random.key(0), "metric")
    return jax.jit(lambda: compose_lines(text, glyphs, num_lines))()


def _blank_image() -> Array:
    layout = LineLayout()
    return jnp.zeros((1, layout.height, layout.width))
