r"""The whole time loop of an ensemble in one GPU kernel, each trajectory in the registers of a lane.

A scan starts a few kernels for each step, which read and write all states. Here a program takes 128
trajectories through all their steps and touches memory at the start and at the end:

>>> import jax, jax.numpy as jnp
>>> from probjax.diffeq.fused import solve_fused
>>> def lorenz(t, y, rho):
...     return jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])
>>> def ends(rho):
...     return solve_fused(lorenz, jnp.ones(3), 0.0, 1.0, args=rho, in_axes=(None, 0),
...                        method="rk4", num_steps=1000).y
>>> traced = jax.jit(ends).trace(jax.ShapeDtypeStruct((1_000_000,), jnp.float32))
>>> traced.lower(lowering_platforms=("cuda",)).as_text().count("xla.gpu.triton")
1

The vector field is any that has a componentwise form. On other platforms than CUDA the same
arguments run as `solve_ensemble(layout="components")`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, UInt32

from probjax.core import keys
from probjax.diffeq import solution as records
from probjax.diffeq.adaptive import ending
from probjax.diffeq.componentwise import components, join_components, num_components
from probjax.diffeq.ensemble import run_ensemble
from probjax.diffeq.ensemble_job import InAxes, Job, em_step, prepare
from probjax.diffeq.runge_kutta import rk_step
from probjax.diffeq.solution import Solution, Stats, VectorField
from probjax.diffeq.step_control import adaptive_init, adaptive_step, is_running
from probjax.diffeq.tableaus import Tableau, as_tableau

LANES = 128
"""Trajectories of a program."""
MOST_SCALARS = 64
"""Of state and `args` together: more do not stay in registers."""
