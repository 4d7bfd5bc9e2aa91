r"""CTC's sums over alignments as one GPU kernel: a program for each sequence and each direction.

`ctc_core` steps through the frames with a scan, which a GPU starts as a few small kernels for each
frame. Here the whole loop over frames runs inside one Pallas kernel. Both directions are the same
recursion: read backwards, with its labels in reverse order, a lattice is a lattice again. So the
sums over continuations are a second program of the same kernel, beside the first, not after it.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import kernels
>>> uniform = jnp.full((4, 2), -jnp.log(3.0))
>>> arguments = uniform[:, 0], uniform, jnp.array([False, True]), jnp.array(2)
>>> traced = jax.jit(kernels.log_z).trace(*arguments)
>>> traced.lower(lowering_platforms=("cuda",)).as_text().count("xla.gpu.triton")
1

Lowered for CUDA, through Triton; everywhere else the same kernel is interpreted, which is slow and
meant for tests.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int

from probjax.core import rows
from probjax.sequence import ctc_core, wide
from probjax.sequence.ctc_core import LatticeStates, Smoothed
from probjax.sequence.wide import Wide

WARP = 32
"""Lanes are padded to a power of two that is not smaller."""


@jax.custom_jvp
def log_z(
    blank_lp: Float[Array, "frames"],
    label_lp: Float[Array, "frames labels"],
    can_skip: Bool[Array, "labels"],
    label_length: Int[Array, ""],
) -> Float[Array, ""]:
    r"""`ctc_core.log_z` by the kernel: the same values, derivatives and arguments.

    $$\ln Z=\ln\sum_{\pi:\,\mathcal B(\pi)=y}\prod_t p_t(\pi_t)$$

    Without a derivative only the forward program runs, and it keeps two rows.

    Args:
        blank_lp: as for `ctc_core.log_z`.
        label_lp: as for `ctc_core.log_z`.
        can_skip: as for `ctc_core.log_z`.
        label_length: as for `ctc_core.log_z`.

    Returns:
        $\ln Z$, $-\infty$ where there is no alignment; the derivative is then zero.

    Example:
        >>> zero = jnp.zeros((1, 1))
        >>> print(jax.jit(log_z)(zero[:, 0], zero, jnp.array([False]), jnp.array(1)))
        0.0
    """
    if blank_lp.shape[0] == 0:
        return ctc_core.log_z(blank_lp, label_lp, can_skip, label_length)
    sums = _sums([_lattice(blank_lp, label_lp, can_skip)], keep=False)
    last = jax.tree.map(lambda row: row[0, (blank_lp.shape[0] - 1) % 2], sums)
    return ctc_core.ending(last, label_length)[0]


@log_z.defjvp
def _log_z_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    result = smooth(*primals)
    moved = jnp.sum(result.blank * tangents[0]) + jnp.sum(result.label * tangents[1])
    return result.log_z, moved


@jax.custom_jvp
def smooth(
    blank_lp: Float[Array, "frames"],
    label_lp: Float[Array, "frames labels"],
    can_skip: Bool[Array, "labels"],
    label_length: Int[Array, ""],
) -> Smoothed:
    r"""`ctc_core.smooth` by the kernel, both directions at once.

    With $\hat\beta$ the sums over continuations, the frame's own emission included,

    $$\gamma_t(s)=\frac{\alpha_t(s)\,\hat\beta_t(s)\,/\,p_t(e_s)}
      {\sum_{s'}\alpha_t(s')\,\hat\beta_t(s')\,/\,p_t(e_{s'})} .$$

    The denominator is $Z$ in every frame. It is summed up in each, so that what rounding has done
    to all states of a frame alike cancels. All factors are `wide` numbers: nothing underflows.

    Args:
        blank_lp: as for `ctc_core.log_z`.
        label_lp: as for `ctc_core.log_z`.
        can_skip: as for `ctc_core.log_z`.
        label_length: as for `ctc_core.log_z`.

    Returns:
        `Smoothed`; all probabilities are zero where there is no alignment.

    Example:
        >>> half = jnp.log(jnp.full((2, 1), 0.5))
        >>> arguments = half[:, 0], half, jnp.array([False]), jnp.array(1)
        >>> print(jax.jit(smooth)(*arguments).label[:, 0].round(3))
        [0.667 0.667]

    References:
        Graves and others 2006.
    """
    if blank_lp.shape[0] == 0:
        return ctc_core.smooth(blank_lp, label_lp, can_skip, label_length)
    lanes = label_lp.shape[1] + 1
    lane, length = jnp.arange(lanes, dtype=jnp.int32), label_length.astype(jnp.int32)
    # Blank j is blank L - j from behind, label j is label L + 1 - j; lanes beyond the target stay
    # among themselves.
    blanks, labels = (length - lane) % lanes, (length + 1 - lane) % lanes
    ahead = _lattice(blank_lp, label_lp, can_skip)
    behind = (
        ahead[0][::-1],
        _take(ahead[1][::-1], labels),
        _take(ahead[2], (length + 2 - lane) % lanes),
    )
    sums = _sums([ahead, behind], keep=True)
    alpha, beta = (jax.tree.map(lambda row, side=side: row[side], sums) for side in (0, 1))
    last = jax.tree.map(lambda row: row[-1], alpha)
    beta = LatticeStates(
        *(
            jax.tree.map(lambda row, order=order: _take(row[::-1], order), x)
            for x, order in zip(beta, (blanks, labels), strict=True)
        )
    )
    emission = (wide.from_log(ahead[0][:, None]), wide.from_log(ahead[1]))
    products = [_joined(*each) for each in zip(alpha, beta, emission, strict=True)]
    gamma = _shares(Wide(*(jnp.concatenate(x, axis=-1) for x in zip(*products, strict=True))))
    return Smoothed(
        ctc_core.ending(last, label_length)[0],
        jnp.sum(gamma[:, :lanes], axis=-1),
        gamma[:, lanes + 1 :],
    )


@smooth.defjvp
def _smooth_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> Any:
    def twin(blank_lp: Array, label_lp: Array) -> Smoothed:
        return ctc_core.smooth(blank_lp, label_lp, *primals[2:])

    return smooth(*primals), jax.jvp(twin, primals[:2], tangents[:2])[1]


def _lattice(blank_lp: Array, label_lp: Array, can_skip: Array) -> tuple[Array, Array, Array]:
    """Emissions and skips with a lane 0, which is no state, in front of the labels."""
    label = ctc_core.with_lane_zero(label_lp, -jnp.inf)
    return blank_lp, label, ctc_core.with_lane_zero(can_skip, False)


def _take(x: Array, lanes: Array) -> Array:
    return x.at[..., lanes].get(mode="promise_in_bounds")


def _joined(alpha: Wide, beta: Wide, emission: Wide) -> Wide:
    """The product of beginnings and continuations, the emission counted once."""
    divisor = jnp.where(emission.mantissa == 0, 1.0, emission.mantissa)
    return Wide(
        alpha.mantissa * beta.mantissa / divisor,
        alpha.exponent + beta.exponent - emission.exponent,
    )


def _shares(x: Wide) -> Array:
    """Each row divided by its sum; zero where there is none."""
    low = wide.lowest(x.mantissa.dtype)
    top = jnp.max(jnp.where(x.mantissa > 0, x.exponent, low), axis=-1, keepdims=True)
    common = Wide(jnp.zeros_like(x.mantissa), jnp.broadcast_to(top, x.exponent.shape))
    (scaled, _), _ = wide.aligned(x, common)
    total = jnp.sum(scaled, axis=-1, keepdims=True)
    return scaled * (jnp.where(total > 0, 1.0, 0.0) / jnp.where(total > 0, total, 1.0))


def _sums(lattices: list[tuple[Array, Array, Array]], *, keep: bool) -> LatticeStates:
    """Run one program for each lattice.

    Returns:
        `LatticeStates` of `Wide`, `(programs, rows, L + 1)`: a row for each frame, or, without
        `keep`, the last two frames at the row of their parity.
    """
    blank, label, skip = (jnp.stack(x) for x in zip(*lattices, strict=True))
    lanes = label.shape[-1]
    padding = (0, max(WARP, 1 << (lanes - 1).bit_length()) - lanes)
    label = jnp.pad(label, ((0, 0), (0, 0), padding), constant_values=-jnp.inf)
    skip = jnp.pad(skip.astype(jnp.int32), ((0, 0), padding))
    arguments = (*wide.from_log(blank), *wide.from_log(label), skip)
    arguments = rows.varying_over(arguments, arguments)
    sums = jax.lax.platform_dependent(
        *arguments,
        cuda=functools.partial(_call, keep=keep, interpret=False),
        default=functools.partial(_call, keep=keep, interpret=True),
    )
    blank, label = (Wide(*(x[..., :lanes] for x in pair)) for pair in (sums[:2], sums[2:]))
    return LatticeStates(blank, label)


def _call(*arguments: Array, keep: bool, interpret: bool) -> tuple[Array, ...]:
    """The kernel over (blank mantissas, exponents, label mantissas, exponents, skips)."""
    programs, num_frames, lanes = arguments[2].shape
    shape = (programs, num_frames if keep else 2, lanes)
    kind = arguments[2].dtype
    # Inside `shard_map` the results vary over whatever the arguments vary over.
    over = getattr(jax.typeof(arguments[2]), "manual_axis_type", None)
    return pallas.pallas_call(
        functools.partial(_kernel, keep=keep, barrier=not interpret),
        grid=(programs,),
        in_specs=[_whole(x.shape) for x in arguments],
        out_specs=[_whole(shape)] * 4,
        out_shape=[jax.ShapeDtypeStruct(shape, kind, manual_axis_type=over)] * 4,
        # One stage: loads that are moved ahead of the stores they depend on would read old rows.
        compiler_params=triton.CompilerParams(num_warps=min(lanes // WARP, 8), num_stages=1),
        interpret=interpret,
        name="ctc_sums",
    )(*arguments)


def _whole(shape: tuple[int, ...]) -> pallas.BlockSpec:
    """All that belongs to one program."""
    return pallas.BlockSpec((None, *shape[1:]), lambda program: (program,) + (0,) * len(shape[1:]))


def _kernel(
    blank_mantissa: Any,
    blank_exponent: Any,
    label_mantissa: Any,
    label_exponent: Any,
    skip: Any,
    *refs: Any,
    keep: bool,
    barrier: bool,
) -> None:
    """All frames of one lattice; `refs` are the four parts of the states."""
    num_frames, lanes = label_mantissa.shape
    low = wide.lowest(label_mantissa.dtype)
    lane = jnp.arange(lanes, dtype=jnp.int32)
    may_skip = skip[...] != 0
    before = jnp.maximum(lane - 1, 0)
    outside = (0.0, low, 0.0, low)

    def one_at(place: int) -> Wide:
        here = lane == place
        mantissa = jnp.where(here, 1.0, 0.0).astype(label_mantissa.dtype)
        return Wide(mantissa, jnp.where(here, 0.0, low).astype(label_mantissa.dtype))

    def step(frame: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        (blank, label), (earlier_blank, earlier_label) = carry
        terms, exponent = wide.aligned(blank, label)
        new_blank = wide.normalised(
            (terms[0] + terms[1]) * blank_mantissa[frame], exponent + blank_exponent[frame]
        )
        skipping = Wide(
            jnp.where(may_skip, earlier_label.mantissa, 0.0),
            jnp.where(may_skip, earlier_label.exponent, low),
        )
        terms, exponent = wide.aligned(label, earlier_blank, skipping)
        new_label = wide.normalised(
            (terms[0] + terms[1] + terms[2]) * label_mantissa[frame, :],
            exponent + label_exponent[frame, :],
        )
        # There is no shift across lanes: write the row, wait for all lanes, read it one to the
        # left. With two rows, the one written next was read before this wait.
        row = frame if keep else frame & 1
        for ref, part in zip(refs, (*new_blank, *new_label), strict=True):
            ref[row, :] = part
        if barrier:
            triton.debug_barrier()
        moved = [
            jnp.where(lane == 0, fill, ref[row, before])
            for ref, fill in zip(refs, outside, strict=True)
        ]
        return (new_blank, new_label), (Wide(*moved[:2]), Wide(*moved[2:]))

    nowhere = one_at(-1)
    start = ((one_at(0), nowhere), (one_at(1), nowhere))
    jax.lax.fori_loop(0, num_frames, step, start)
