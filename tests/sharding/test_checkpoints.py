"""Checkpoints come back to the bit, on other devices too, and say why when they cannot."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from probjax import sharding
from probjax.sharding import checkpoints

CONFIG = {"seed": 1, "net": {"width": 8}, "steps": (1, 2)}


def make_state(mesh=None):
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    state = {
        "params": params,
        "opt": optax.adam(1e-3).init(params),
        "key": jax.random.key(5),
        "count": jnp.int32(7),
        "rows": jnp.arange(16.0),
    }
    if mesh is not None:
        placed = jax.device_put(state["rows"], NamedSharding(mesh, P("items")))
        state = {**jax.device_put(state, NamedSharding(mesh, P())), "rows": placed}
    return state


def assert_same(one, other):
    leaves = jax.tree_util.tree_leaves_with_path
    for (path, a), (_, b) in zip(leaves(one), leaves(other), strict=True):
        a, b = (jax.random.key_data(x) if checkpoints._is_key(x) else x for x in (a, b))
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(path))


def test_every_leaf_comes_back(tmp_path):
    state = make_state()
    checkpoints.save(tmp_path / "c", 12, state, config=CONFIG)
    blank = jax.tree.map(lambda x: x if checkpoints._is_key(x) else jnp.zeros_like(x), state)
    restored, step = checkpoints.restore(tmp_path / "c", blank, config=CONFIG)
    assert step == 12
    assert_same(restored, state)
    jax.random.normal(restored["key"])


def test_onto_another_number_of_devices(tmp_path):
    checkpoints.save(tmp_path, 1, make_state(sharding.make_mesh(2)), config=CONFIG)
    like = make_state(sharding.make_mesh(8))
    restored, _ = checkpoints.restore(tmp_path, like, config=CONFIG)
    assert_same(restored, like)
    assert restored["rows"].sharding == like["rows"].sharding
    assert len(restored["params"]["w"].sharding.device_set) == 8


def test_the_last_few_stay_and_one_may_be_named(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, {"x": jnp.float32(step)}, config=CONFIG, keep=2)
    assert checkpoints.steps(tmp_path) == [2, 3]
    like = {"x": jnp.float32(0)}
    assert checkpoints.restore(tmp_path, like, config=CONFIG)[0]["x"] == 3
    assert checkpoints.restore(tmp_path, like, config=CONFIG, step=2)[0]["x"] == 2
    with pytest.raises(checkpoints.CheckpointError, match=r"no checkpoint of step 1; .* \[2, 3\]"):
        checkpoints.restore(tmp_path, like, config=CONFIG, step=1)


def one_line(folder, like, config, *parts):
    with pytest.raises(checkpoints.CheckpointError) as caught:
        checkpoints.restore(folder, like, config=config)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(folder), *parts):
        assert part in message, message


def test_another_config_names_the_field(tmp_path):
    checkpoints.save(tmp_path, 1, {"x": jnp.ones(2)}, config=CONFIG)
    other = {**CONFIG, "net": {"width": 9}}
    one_line(tmp_path, {"x": jnp.ones(2)}, other, "net.width is 8 there, 9 here")
    extra = {**CONFIG, "more": 1}
    one_line(tmp_path, {"x": jnp.ones(2)}, extra, "more is 'absent' there, 1 here")


def test_another_structure(tmp_path):
    checkpoints.save(tmp_path, 1, {"x": jnp.ones(2)}, config=CONFIG)
    one_line(tmp_path, {"x": jnp.ones(3)}, CONFIG)
    one_line(tmp_path, {"y": jnp.ones(2)}, CONFIG, "another structure")


def test_none_foreign_and_damaged(tmp_path):
    like = {"x": jnp.arange(4000.0)}
    one_line(tmp_path / "empty", like, CONFIG, "no checkpoint there")
    (tmp_path / "foreign" / "step_0000000003").mkdir(parents=True)
    (tmp_path / "foreign" / "step_0000000003" / "model.txt").write_text("hello")
    one_line(tmp_path / "foreign", like, CONFIG, "damaged or not a probjax checkpoint")
    checkpoints.save(tmp_path / "cut", 3, like, config=CONFIG)
    files = [p for p in (tmp_path / "cut").rglob("*") if p.is_file() and p.stat().st_size > 1000]
    assert files
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))
    one_line(tmp_path / "cut", like, CONFIG, "damaged")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_an_unwritable_folder_is_an_os_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError):
        checkpoints.save(tmp_path / "c", 1, {"x": jnp.ones(1)}, config=CONFIG)


def test_a_file_in_the_way_is_an_os_error(tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(OSError):
        checkpoints.save(tmp_path / "c", 1, {"x": jnp.ones(1)}, config=CONFIG)


@pytest.mark.multiprocess
def test_sigkill_while_running_leaves_a_usable_checkpoint(tmp_path):
    program = textwrap.dedent(
        """
        import sys, jax.numpy as jnp
        from probjax.sharding import checkpoints
        for step in range(1, 100000):
            checkpoints.save(sys.argv[1], step, {"x": jnp.full(1000, step)}, config={})
            print(step, flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) == 7:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    state, step = checkpoints.restore(tmp_path, {"x": jnp.zeros(1000, int)}, config={})
    assert step >= 7
    assert (state["x"] == step).all()
    assert len(checkpoints.steps(pathlib.Path(tmp_path))) >= 1
