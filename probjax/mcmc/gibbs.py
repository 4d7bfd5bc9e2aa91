r"""Gibbs sampling: blocks of variables, each updated given the others.

A block's kernel may draw from the exact conditional, or be any kernel that leaves the conditional
invariant: Metropolis-Hastings, or HMC and NUTS of BlackJAX through `block_from_blackjax`.

>>> import jax, jax.numpy as jnp
>>> def given(other):
...     def kernel(key, value, rest):
...         mean = 0.9 * rest[other]
...         return mean + (1 - 0.9**2) ** 0.5 * jax.random.normal(key), None
...     return kernel
>>> kernel = gibbs([Block("x", given("y")), Block("y", given("x"))])
>>> state = kernel.init({"x": 1.0, "y": -1.0})
>>> state, info = kernel.step(jax.random.key(0), state)
>>> sorted(state.position), float(info.acceptance_rate)
(['x', 'y'], 1.0)
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jaxtyping import Array, Bool, Float, Int, Key

from probjax.core import checks, rows, trees
from probjax.core.keys import PRNGKey, as_key, item_key, item_keys, stream
from probjax.mcmc.mh import LogDensityFn, MHInfo, metropolis_hastings

Position = dict[str, Any]
"""The value of each block, by its name."""

BlockKernel = Callable[[Any, Any, Position], tuple[Any, Any]]
"""`kernel(key, value, rest) -> (value, info)`; `rest` holds the other blocks' values."""

SCANS = ("systematic", "random", "palindromic")
"""Orders in which `gibbs` visits the blocks."""


class Block(NamedTuple):
    """A part of the position and how it is updated given the rest."""

    name: str
    """Its name in the position."""
    kernel: BlockKernel
    """`kernel(key, value, rest) -> (value, info)`, invariant for this block's conditional. `info`
    is `None` for an exact draw, or a record with any of `MHInfo`'s fields."""
    refresh: Callable[[Any, Position], Any] | None = None
    """`refresh(value, rest) -> value`, called before every visit: recomputes whatever a value
    carries that depends on the other blocks (a residual, a log density, a gradient)."""


class Conditional(NamedTuple):
    """One block's exact conditional, for `parallel_gibbs_mh`."""

    sample: Callable[[Any, Position], Any]
    """`sample(key, rest) -> value`."""
    logdensity_fn: Callable[[Any, Position], Float[Array, ""]]
    """`logdensity_fn(value, rest)`, normalised: its constant depends on `rest`."""


class GibbsState(NamedTuple):
    """State of `gibbs`."""

    position: Position
    """The value of each block."""


class GibbsInfo(NamedTuple):
    """What a step, all its visits together, reports."""

    acceptance_rate: Float[Array, ""]
    """Mean over the visits; an exact draw counts 1."""
    is_accepted: Bool[Array, ""]
    """Whether every visit's proposal was taken."""
    is_divergent: Bool[Array, ""]
    """Whether any visit diverged."""
    is_nonfinite: Bool[Array, ""]
    """Whether any visit gave a value that was not finite; that block was left as it was."""
    num_grad_evals: Int[Array, ""]
    """Gradient evaluations of all visits."""
    block_acceptance: dict[str, Float[Array, ""]]
    """For each block the sum of its visits' acceptance rates."""
    num_visits: dict[str, Int[Array, ""]]
    """For each block how often it was visited; both sums add up over steps."""


def gibbs(blocks: Sequence[Block], *, scan: str = "systematic") -> SamplingAlgorithm:
    r"""Gibbs sampling over named blocks.

    A visit of block $b$ draws $x_b'\sim K_b(\,\cdot\mid x_b,x_{-b})$ where $x_{-b}$ are the
    **newest** values of the others. One step makes, with $n$ blocks,

    * `"systematic"`: one visit of each, in the order given; invariant, not reversible;
    * `"random"`: $n$ visits of blocks picked uniformly; reversible;
    * `"palindromic"`: forward and back, $1,\dots,n,\dots,1$, the turning block once; reversible.

    A visit that returns a value which is not finite leaves the block as it was, and is flagged.

    Args:
        blocks: the blocks; their names are the keys of the position.
        scan: one of `SCANS`.

    Returns:
        `SamplingAlgorithm` with `init(position) -> GibbsState`, from a dict with exactly the
        blocks' names, and `step(key, state) -> (GibbsState, GibbsInfo)`. Visit $v$ of a step
        draws from its own key.

    Raises:
        ValueError: no block, a name given twice, an unknown `scan`; from `init`, a position that
            lacks a block or has a name that no block updates; from `step`, a value of another
            structure or shape.

    Example:
        >>> coin = Block("n", lambda key, n, rest: (jax.random.bernoulli(key).astype(int), None))
        >>> kernel = gibbs([coin], scan="random")
        >>> state, info = kernel.step(jax.random.key(0), kernel.init({"n": 3}))
        >>> int(info.num_visits["n"])
        1

    References:
        Geman and Geman 1984, *Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images*.
    """
    blocks = tuple(blocks)
    names = [block.name for block in blocks]
    _check_blocks(names)
    checks.one_of("scan", scan, SCANS)
    forward = list(range(len(blocks)))
    order = forward if scan == "systematic" else [*forward, *forward[-2::-1]]

    def init(position: Any, rng_key: Any = None) -> GibbsState:
        del rng_key
        _check_names(position, names)
        return GibbsState(trees.widened({name: position[name] for name in names}))

    def step(key: PRNGKey, state: GibbsState) -> tuple[GibbsState, GibbsInfo]:
        key = as_key(key)
        before = rows.varying_over(state.position, (key, state.position))
        visits = [functools.partial(_visit, block) for block in blocks]
        visit_key = stream(key, "proposal")
        if scan == "random":
            picks = jax.random.randint(stream(key, "sample"), (len(blocks),), 0, len(blocks))
            position, infos = _visit_picked(visits, picks, visit_key, before)
        else:
            picks, position, each = jnp.asarray(order), before, []
            for number, index in enumerate(order):
                position, info = visits[index](item_key(visit_key, number), position)
                each.append(info)
            infos = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        return GibbsState(position), _summary(names, picks, infos)

    return SamplingAlgorithm(init, step)


def block_from_blackjax(
    make_algorithm: Callable[[LogDensityFn], SamplingAlgorithm],
    conditional_logdensity_fn: Callable[[Any, Position], Float[Array, ""]],
) -> BlockKernel:
    r"""Turn any kernel with BlackJAX's protocol into the kernel of a Gibbs block.

    At each visit the conditional $\log p(x_b\mid x_{-b})$ is another function, so what the
    algorithm's state caches of it (log density, gradient) is rebuilt by its `init`. The price
    is one evaluation more at each visit; the alternative, a state kept from the visit before,
    accepts by a ratio of two different densities.

    Args:
        make_algorithm: `make_algorithm(logdensity_fn)`, such as
            `lambda f: blackjax.hmc(f, 0.1, jnp.ones(3), 10)`, or this package's own kernels.
        conditional_logdensity_fn: `conditional_logdensity_fn(value, rest)`, up to a constant
            that may depend on `rest`; the joint log density will do.

    Returns:
        A kernel for `Block`. Its info is an `MHInfo`; gradients are counted with the one of
        `init`.

    Example:
        >>> import blackjax
        >>> kernel = block_from_blackjax(
        ...     lambda f: blackjax.hmc(f, 0.5, jnp.ones(1), 3),
        ...     lambda x, rest: -0.5 * jnp.sum((x - rest["mean"]) ** 2))
        >>> x, info = kernel(jax.random.key(0), jnp.zeros(1), {"mean": 2.0})
        >>> x.shape, int(info.num_grad_evals)
        ((1,), 4)
    """

    def kernel(key: PRNGKey, value: Any, rest: Position) -> tuple[Any, MHInfo]:
        algorithm = make_algorithm(lambda x: conditional_logdensity_fn(x, rest))
        start = algorithm.init(value)
        after, info = algorithm.step(key, start)
        has_gradient = int(hasattr(start, "logdensity_grad") or hasattr(start, "score"))
        made = getattr(info, "num_integration_steps", has_gradient)
        made = jnp.asarray(getattr(info, "num_grad_evals", made), jnp.int32)
        energy_is_nan = jnp.isnan(jnp.asarray(getattr(info, "energy", 0.0)))
        common = _common(info, jnp.result_type(float))
        nonfinite = common.is_nonfinite | energy_is_nan | jnp.isnan(common.acceptance_rate)
        return after.position, common._replace(
            is_nonfinite=nonfinite, num_grad_evals=made + has_gradient
        )

    return kernel


def parallel_gibbs_mh(
    conditionals: Mapping[str, Conditional], logdensity_fn: LogDensityFn
) -> SamplingAlgorithm:
    r"""Redraw all blocks at once, each given the old others, and accept the whole or stay.

    $$Q(x\to x')=\prod_bp(x_b'\mid x_{-b}),\qquad
      A=\min\Bigl\{1,\;\frac{\pi(x')}{\pi(x)}
      \prod_b\frac{p(x_b\mid x_{-b}')}{p(x_b'\mid x_{-b})}\Bigr\}$$

    Without the accept step the blocks would end up independent of each other.

    Args:
        conditionals: for each block how to draw it, and with which density.
        logdensity_fn: joint log density of the position, a dict by block name.

    Returns:
        `SamplingAlgorithm` as of `metropolis_hastings`, positions being dicts.

    Raises:
        ValueError: no conditional; from `init`, a position with other names.

    Example:
        Two independent normals need no correction, every proposal is accepted:

        >>> def sample(key, rest):
        ...     return jax.random.normal(key)
        >>> one = Conditional(sample, lambda value, rest: -0.5 * value**2)
        >>> kernel = parallel_gibbs_mh(
        ...     {"x": one, "y": one}, lambda v: -0.5 * (v["x"] ** 2 + v["y"] ** 2))
        >>> state, info = kernel.step(jax.random.key(0), kernel.init({"x": 0.0, "y": 3.0}))
        >>> round(float(info.acceptance_rate), 3)
        1.0
    """
    names = list(conditionals)
    _check_blocks(names)

    def propose(key: Key[Array, ""], position: Position) -> Position:
        return {
            name: conditional.sample(item_key(key, index), _others(position, name))
            for index, (name, conditional) in enumerate(conditionals.items())
        }

    def proposal_logdensity_fn(from_x: Position, to_x: Position) -> Float[Array, ""]:
        terms = [
            conditional.logdensity_fn(to_x[name], _others(from_x, name))
            for name, conditional in conditionals.items()
        ]
        return functools.reduce(jnp.add, terms)

    algorithm = metropolis_hastings(logdensity_fn, propose, proposal_logdensity_fn)

    def init(position: Any, rng_key: Any = None) -> Any:
        _check_names(position, names)
        return algorithm.init({name: position[name] for name in names}, rng_key)

    return SamplingAlgorithm(init, algorithm.step)


def _others(position: Position, name: str) -> Position:
    return {other: value for other, value in position.items() if other != name}


def _visit(block: Block, key: Key[Array, ""], position: Position) -> tuple[Position, MHInfo]:
    """One visit: refresh, update, and keep the old value where the new one is not finite."""
    value, rest = position[block.name], _others(position, block.name)
    start = value
    if block.refresh is not None:
        start = block.refresh(value, rest)
        start = trees.same_layout(f"refresh of block {block.name!r}", start, "its value", value)
    new, info = block.kernel(key, start, rest)
    new = trees.same_layout(f"kernel of block {block.name!r}", new, "its value", value)
    finite = trees.all_finite(new)
    kept = jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, value)
    info = _common(info, _float_dtype(position))
    info = MHInfo(
        jnp.where(finite, info.acceptance_rate, 0.0),
        info.is_accepted & finite,
        info.is_divergent | ~finite,
        info.is_nonfinite | ~finite,
        info.num_grad_evals,
    )
    return {**position, block.name: kept}, info


def _visit_picked(
    visits: list[Callable[..., tuple[Position, MHInfo]]],
    picks: Int[Array, "visits"],
    key: Key[Array, ""],
    position: Position,
) -> tuple[Position, MHInfo]:
    """Visit the picked blocks one after the other, in one compiled loop."""
    # The branches of a switch must agree, too, also about what their closures vary over.
    outs = [jax.eval_shape(visit, item_key(key, 0), position) for visit in visits]

    def mark(tree: Any) -> Any:
        return rows.varying_over(tree, (outs, picks, position))

    # A mapped switch runs every branch on the same operands, which JAX's check for keys that are
    # used twice refuses; the branches' answers but one are dropped, so raw data may enter.
    keys = jax.random.key_data(item_keys(key, len(visits)))
    implementation = jax.random.key_impl(key)

    def branch(visit: Callable[..., Any]) -> Callable[..., Any]:
        return lambda data, position: mark(
            visit(jax.random.wrap_key_data(data, impl=implementation), position)
        )

    def body(position: Position, visit: tuple[Array, Array]) -> tuple[Position, MHInfo]:
        pick, data = visit
        return jax.lax.switch(pick, [branch(visit) for visit in visits], data, position)

    return jax.lax.scan(body, mark(position), (picks, keys))


def _summary(names: list[str], picks: Int[Array, "visits"], infos: MHInfo) -> GibbsInfo:
    """What the visits report, together and by block."""
    rate = infos.acceptance_rate
    hits = picks[:, None] == jnp.arange(len(names))[None]
    sums = jnp.sum(jnp.where(hits, rate[:, None], 0.0), axis=0)
    counts = jnp.sum(hits, axis=0, dtype=jnp.int32)
    return GibbsInfo(
        jnp.mean(rate),
        jnp.all(infos.is_accepted),
        jnp.any(infos.is_divergent),
        jnp.any(infos.is_nonfinite),
        jnp.sum(infos.num_grad_evals, dtype=jnp.int32),
        {name: sums[i] for i, name in enumerate(names)},
        {name: counts[i] for i, name in enumerate(names)},
    )


def _common(info: Any, dtype: Any) -> MHInfo:
    """The common fields of any kernel's info; what it lacks reads as an exact draw's."""

    def read(name: str, otherwise: Any) -> Array:
        return jnp.asarray(getattr(info, name, otherwise))

    return MHInfo(
        jnp.mean(read("acceptance_rate", 1.0)).astype(dtype),
        jnp.all(read("is_accepted", True)),
        jnp.any(read("is_divergent", False)),
        jnp.any(read("is_nonfinite", False)),
        jnp.sum(read("num_grad_evals", 0), dtype=jnp.int32),
    )


def _float_dtype(position: Position) -> Any:
    """The widest floating dtype of a position, the default one where it has none."""
    kinds = [leaf.dtype for leaf in jax.tree.leaves(position)]
    kinds = [kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)]
    return functools.reduce(jnp.promote_types, kinds) if kinds else jnp.result_type(float)


def _check_blocks(names: list[str]) -> None:
    if not names:
        raise ValueError("blocks must name at least one block, got none")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"blocks must have different names, got {', '.join(twice)} twice")


def _check_names(position: Any, names: list[str]) -> None:
    if not isinstance(position, Mapping):
        raise TypeError(f"position must be a dict by block name, got {type(position).__name__}")
    missing = [name for name in names if name not in position]
    unknown = [name for name in position if name not in names]
    if missing:
        raise ValueError(f"position lacks block {missing[0]!r}; the blocks are {names}")
    if unknown:
        raise ValueError(f"position has {unknown[0]!r}, which no block updates; they are {names}")
