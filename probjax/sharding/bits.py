"""What it takes for one function to give the same bits in programs for 1, 2, 4 and 8 devices.

Tiles give each item the same operations on the same shapes. That is not yet enough on CPUs: XLA's
algebraic simplifier rewrites `a / b` to `a * (1 / b)`, or `a / sqrt(b)` to `a * rsqrt(b)`, where
its surroundings let it, and those differ between a program for one device and one for several,
between a loop over tiles and a single tile. So tiled programs are compiled without it.

>>> from probjax import sharding
>>> sharding.same_bits_options(sharding.make_mesh(2))
{'xla_disable_hlo_passes': 'algsimp'}
"""

from jax.sharding import Mesh


def same_bits_options(mesh: Mesh) -> dict[str, str]:
    """Give the compiler options under which tiles keep their bits.

    `map_items` and `map_rows` use them by themselves when they are given a tile; a program of your
    own around `value_and_grad(..., tile=...)` needs `jax.jit(fn, compiler_options=...)`, or
    `run_chunks(..., compiler_options=...)`.

    Args:
        mesh: the devices the program is for.

    Returns:
        Options for `jax.jit`; none where no rewriting between meshes has been seen.

    Example:
        >>> import jax
        >>> from probjax import sharding
        >>> options = same_bits_options(sharding.make_mesh(1))
        >>> float(jax.jit(lambda x: x / 3.0, compiler_options=options)(6.0))
        2.0
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_disable_hlo_passes": "algsimp"} if on_cpu else {}
