"""A block of trajectories, before it is mapped over anything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.ensemble_job import em_step, prepare

OPTIONS = {
    "method": None, "num_steps": 2, "save_every": None, "rtol": None, "atol": None,
    "max_steps": 9, "diffusion": None, "key": None, "layout": "auto",
}  # fmt: skip


def field(t, y, args):
    return -args["rate"] * y + args["shift"]


ARGS = {"rate": jnp.arange(1.0, 4.0), "shift": jnp.array([0.5, 0.25])}


def prepared(**options):
    axes = (0, {"rate": 0, "shift": None})
    return prepare(field, jnp.ones((3, 2)), 0.0, ARGS, axes, **(OPTIONS | options))


def test_arguments_are_parted_and_put_together():
    job, _, (mapped, shared) = prepared()
    assert job.is_mapped == (True, False) and job.as_components
    assert mapped[0].shape == (3,) and shared[0].shape == (2,)
    assert job.args_of(["r"], ["s"]) == {"rate": "r", "shift": "s"}


@pytest.mark.parametrize("layout", ["components", "stacked"])
def test_a_block(layout):
    job, y0, (mapped, shared) = prepared(layout=layout, method="euler")
    options = (jnp.array(0.0), jnp.array(1.0), None, None, None)
    found = jax.jit(lambda *a: job(*a))((y0, mapped, None), (None, shared), options)
    y = np.ones((3, 2))
    for _ in range(2):
        y = y + 0.5 * (-np.arange(1.0, 4.0)[:, None] * y + np.array([0.5, 0.25]))
    np.testing.assert_allclose(found.y, y, rtol=1e-6)
    np.testing.assert_array_equal(found.stats.num_evaluations, 2)


ADAPTIVE = {"num_steps": None, "rtol": 1e-6, "atol": 1e-8, "max_steps": 60}


def test_adaptive_steps_of_small_states_take_components():
    assert prepared(**ADAPTIVE)[0].as_components
    assert not prepared(**ADAPTIVE, layout="stacked")[0].as_components


@pytest.mark.slow
def test_layouts_of_adaptive_steps_agree_and_so_do_their_gradients(x64):
    """Leaves of two dtypes, own and shared arguments, and one trajectory that fails."""

    def field(t, y, args):
        own, (drift, pull) = args["own"], args["shared"]
        blow = jnp.where(own > 2.5, y["p"][0] ** 8, 0.0)
        return {
            "p": -own * y["p"][::-1] + drift * jnp.sin(t) + blow,
            "z": 1j * (pull * own).astype(complex) * y["z"],
        }

    y0 = {"p": jnp.linspace(1.0, 2.0, 10).reshape(5, 2), "z": jnp.ones((5,), complex)}
    args = {"own": jnp.linspace(1.0, 3.0, 5), "shared": (jnp.array(0.5), jnp.array(0.2))}

    def run(layout, first_step, y0, args):
        axes = (0, {"own": 0, "shared": None})
        options = OPTIONS | ADAPTIVE | {"layout": layout}
        job, y0, (mapped, shared) = prepare(field, y0, 0.0, args, axes, **options)
        numbers = (0.0, 1.0, 1e-6, 1e-8, first_step)
        numbers = tuple(None if x is None else jnp.asarray(x) for x in numbers)
        found = job((y0, mapped, None), (None, shared), numbers)
        return sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(found.y)), found

    for first_step in (None, 0.01):
        (_, one), by_one = program(run, "components", first_step)(y0, args)
        (_, other), by_other = program(run, "stacked", first_step)(y0, args)
        np.testing.assert_array_equal(one.result != 0, [False, False, False, False, True])
        np.testing.assert_array_equal(one.stats.num_steps[:4], other.stats.num_steps[:4])
        for a, b in zip(jax.tree.leaves(one.y), jax.tree.leaves(other.y), strict=True):
            np.testing.assert_allclose(a[:4], b[:4], rtol=1e-11)
        for a, b in zip(jax.tree.leaves(by_one), jax.tree.leaves(by_other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        assert (by_one[0]["p"][4] == 0).all() and by_one[1]["own"][4] == 0


def program(run, layout, first_step):
    def total(y0, args):
        return run(layout, first_step, y0, args)

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


def test_equal_jobs_share_a_program():
    assert prepared()[0] == prepared()[0]
    assert hash(prepared()[0]) == hash(prepared()[0])
    assert prepared()[0] != prepared(num_steps=3)[0]


def test_large_states_stay_together():
    def large(t, y, args):
        return -y

    for size, wanted in ((32, True), (33, False)):
        job = prepare(large, jnp.ones((2, size)), 0.0, None, (0, None), **OPTIONS)[0]
        assert job.as_components is wanted


def test_the_noise_grows_with_the_root_of_the_step_in_either_direction():
    def step(h):
        one = jnp.ones(())
        return em_step(lambda t, y, a: 2 * y, lambda t, y, a: y, 0.0, one, h, None, 3 * one)

    assert step(jnp.array(0.25)) == 1 + 0.5 + 1.5 and step(jnp.array(-0.25)) == 1 - 0.5 + 1.5
