"""Runs as ArviZ's `InferenceData`, for its plots and tables, or to write them to a file.

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> kernel = mcmc.hmc_kernel(lambda x: -0.5 * jnp.sum(x**2), 3)
>>> params = mcmc.HMCParams(0.5, jnp.ones(2))
>>> states = mcmc.init_chains(kernel, jnp.zeros((4, 2)), params=params)
>>> run = mcmc.run_chains(jax.random.key(0), kernel, states, 20, params=params,
...                       trace_fn=mcmc.trace_all)
>>> run.trace.position.shape, run.trace.info.is_divergent.shape
((4, 20, 2), (4, 20))
>>> mcmc.to_inference_data(run, ["a", "b"]).posterior["b"].shape
(4, 20)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from probjax.mcmc.kernels import InfoView, info_view
from probjax.mcmc.runs import Run


class Draw(NamedTuple):
    """What `trace_all` keeps of one step."""

    position: Any
    """Where the chain is after it."""
    info: InfoView
    """What the kernel reported, under the common names."""


def trace_all(state: Any, info: Any) -> Draw:
    """Keep position and info: a `trace_fn` of `run_chains` that fits any kernel.

    Args:
        state: a state with a `position`.
        info: what the kernel reports.

    Returns:
        Both, to be read by `to_inference_data` and `quality_gate`.

    Example:
        >>> import jax.numpy as jnp
        >>> from probjax import mcmc
        >>> algorithm = mcmc.ula(lambda x: -x, 0.1)
        >>> draw = trace_all(*algorithm.step(jax.random.key(0), algorithm.init(jnp.ones(2))))
        >>> draw.position.shape, draw.info.is_divergent.shape
        ((2,), ())
    """
    return Draw(state.position, info_view(info))


def to_inference_data(
    run: Run,
    names: Sequence[str] | None = None,
    *,
    constrain: Callable[[Any], Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Give a run's trace to ArviZ.

    Group `posterior` holds the positions, group `sample_stats` under ArviZ's names what the
    kernel tells: `diverging`, `energy`, `acceptance_rate`, `n_steps` (gradients of a step).

    Args:
        run: with a trace from `trace_fn=trace_all`.
        names: of the entries of a position that is one vector; `theta[1]`, `theta[2]` and so on
            become one variable `theta`. When `None`, each leaf of the position is a variable,
            named by its place in the tree, or `x`.
        constrain: applied to each position first, such as a `Posterior`'s.
        attrs: attributes of the posterior group.

    Returns:
        `arviz.InferenceData` with dimensions `chain` and `draw`.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: the run has no trace of this kind, or `names` do not fit it.

    References:
        Kumar, Carroll, Hartikainen, Martin 2019, *ArviZ*.
    """
    try:
        import arviz
    except ImportError as error:
        raise ImportError(
            "to_inference_data needs ArviZ: pip install 'probjax-research[arviz]'"
        ) from error
    trace = run.trace
    if not isinstance(trace, Draw):
        got = "no trace" if trace is None else f"a trace of {type(trace).__name__}"
        raise ValueError(f"run must have been traced with trace_fn=trace_all, got {got}")
    position = trace.position
    if constrain is not None:
        position = jax.jit(jax.vmap(jax.vmap(constrain)))(position)
    position = jax.tree.map(np.asarray, position)
    variables = _by_path(position) if names is None else _by_name(position, tuple(names))
    dims = {name: [f"{name}_dim_{i}" for i in range(x.ndim - 2)] for name, x in variables.items()}
    return arviz.from_dict(
        posterior=variables, sample_stats=_sample_stats(trace.info), dims=dims,
        posterior_attrs=dict(attrs or {}),
    )  # fmt: skip


def _by_path(position: Any) -> dict[str, np.ndarray]:
    """Leaves by their place in the tree."""
    named = jax.tree_util.tree_leaves_with_path(position)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") or "x": leaf for path, leaf in named
    }


def _by_name(position: Any, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Entries of a vector; neighbours `a[1]`, `a[2]` and so on are joined."""
    shape = np.shape(position) if isinstance(position, np.ndarray) else None
    if shape is None or len(shape) != 3 or shape[2] != len(names):
        got = "a tree" if shape is None else f"shape {shape}"
        raise ValueError(
            f"{len(names)} names go with positions (C, N, {len(names)}) in one array, got {got}"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"names must differ, got {names}")
    groups: dict[str, list[tuple[int, str]]] = {}
    for i, name in enumerate(names):
        groups.setdefault(re.sub(r"\[\d+\]$", "", name), []).append((i, name))
    variables = {}
    for stem, members in groups.items():
        columns = [i for i, _ in members]
        if [name for _, name in members] == [f"{stem}[{k + 1}]" for k in range(len(members))]:
            variables[stem] = position[..., columns]
        else:
            variables |= {name: position[..., i] for i, name in members}
    return variables


def _sample_stats(info: InfoView) -> dict[str, np.ndarray]:
    """Under ArviZ's names, what the kernel tells: not what is nowhere a number."""
    stats = {"diverging": np.asarray(info.is_divergent)}
    numbers = {
        "energy": info.energy,
        "acceptance_rate": info.acceptance_rate,
        "n_steps": info.num_grad_evals,
    }
    for name, values in numbers.items():
        values = np.asarray(values)
        if not np.isnan(values).all():
            stats[name] = values.astype(np.int64) if name == "n_steps" else values
    return stats
