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
