"""Programs are counted as their pages say, and the record is one."""

import jax
import numpy as np
import pytest

from benchmarks import harness, machine, results
from benchmarks.scaling import devices, page, programs

NAMED = {program.name: program for program in programs.PROGRAMS}


def small(name, items=16):
    return NAMED[name]._replace(items=items)


def of(program, count=8):
    ready = devices._Ready(program, programs.sharding.make_mesh(count), program.items)
    return {(each["kind"], each["bytes"]): each["times"] for each in ready.collectives}


@pytest.mark.slow
def test_the_training_step_sums_loss_and_gradient():
    _, params = programs._network()
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert of(small("denoising score matching")) == {("all-reduce", 4 * (numbers + 1)): 1}


@pytest.mark.slow
def test_chains_and_trajectories_send_nothing():
    assert of(small("annealed Langevin")) == {} and of(small("ensemble")) == {}
    assert of(small("gradient of an ensemble")) == {("all-reduce", 12): 1}


@pytest.mark.slow
def test_the_layouts_of_ctc():
    rows = 4 * 16 * programs.FRAMES
    lanes = programs.LABELS + 1
    assert of(small("CTC, split by sequences")) == {("all-reduce", 4): 1}
    assert of(small("CTC, split by classes")) == {
        ("all-gather", rows * lanes): 1,
        ("all-reduce", 4): 1,
        ("all-reduce", rows): 2,
        ("reduce-scatter", rows * lanes // 8): 1,
    }
    assert of(small("CTC, split by frames")) == {
        ("all-reduce", 4): 1,
        ("all-to-all", rows * lanes // 8): 2,
    }


@pytest.mark.slow
def test_a_record_has_every_layout_and_the_answer_of_one_device():
    record, _ = devices.together((1, 4), small("gradient of an ensemble"), 2)
    run = {
        "schema": results.SCHEMA, "machine": machine.describe(),
        "conditions": machine.conditions(), "effort": harness.QUICK._asdict(),
        "programs": [record],
    }  # fmt: skip
    assert results.check(run) is run
    assert [layout["devices"] for layout in record["layouts"]] == [1, 4]
    alone, four = record["layouts"]
    assert alone["sent_bytes"] == 0 and four["sent_bytes"] == 2 * 3 / 4 * 12
    assert alone["difference"] == 0 and four["difference"] < 1e-5
    assert np.isclose(record["flops"][1], 2 * record["flops"][0], rtol=1e-3)
    assert record["memory"] == [4 * (2 * 3 + 3 * n * 16) for n in (1, 2)]  # starts, args, gradient
    assert "all-reduce of 12 B" in page.tables(run)
    for spoil, message in ((lambda r: r.pop("flops"), "fields"), (
        lambda r: r["layouts"][0].update(seconds=[3, 2, 1]), "growing")):  # fmt: skip
        wrong = run | {"programs": [{**record, "layouts": [dict(x) for x in record["layouts"]]}]}
        spoil(wrong["programs"][0])
        with pytest.raises(ValueError, match=message):
            results.check(wrong)


@pytest.mark.slow
def test_a_loop_counts_once_in_the_flops():
    program = small("annealed Langevin", 64)
    assert devices.flops(program, 128) == pytest.approx(2 * devices.flops(program, 64), rel=1e-2)
    dense = 2 * (64 * 256 + 256 * 256 + 256 * 64)
    assert devices.flops(program, 64) / 64 == pytest.approx(dense, rel=0.05)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_count_what_two_devices_count(tmp_path):
    options = {"rounds": 2, "quick": True}
    (one,) = devices.launch(str(tmp_path), 1, (1, 2), **options)
    first, second = devices.launch(str(tmp_path), 2, (1,), **options)
    assert [record["pillar"] for record in one] == ["mcmc", "score", "diffeq", "sequence"]
    for a, b, c in zip(one, first, second, strict=True):
        assert b["layouts"][0]["processes"] == 2
        assert a["layouts"][1]["collectives"] == b["layouts"][0]["collectives"]
        assert b["layouts"][0]["collectives"] == c["layouts"][0]["collectives"]
        assert b["layouts"][0]["difference"] < 1e-4
