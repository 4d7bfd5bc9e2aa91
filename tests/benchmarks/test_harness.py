"""The harness on work whose time and error are known."""

import copy
import json
import time

import jax
import jax.numpy as jnp
import pytest

from benchmarks import harness, machine, render, results, table
from benchmarks.harness import Bar, Case, Contender, Effort, Program

QUICK = Effort(rounds=3, seconds=0.0)


def sleeper(name, seconds, *, peer=False, errors=None, **fields):
    errors = {"result": 1e-7} if errors is None else errors
    return Contender(
        name, lambda: Program(lambda: time.sleep(seconds), 2.0, errors), peer=peer, **fields
    )


def case(*contenders, bars=()):
    return Case("topic/module", "Sleep.", "naps", 4.0, contenders, tolerance=1e-3, bars=bars)


def measured(*contenders, bars=(), effort=QUICK):
    return harness.measure(case(*contenders, bars=bars), effort, say=lambda line: None)


def run_of(*cases):
    return {
        "schema": results.SCHEMA,
        "machine": machine.describe(),
        "conditions": machine.conditions(),
        "cases": list(cases),
    }


@pytest.fixture(scope="module")
def record():
    """Ours naps 20 ms, the peers 60 and 100 ms, for two units each."""
    return measured(
        sleeper("ours", 0.02),
        sleeper("slow peer", 0.1, peer=True),
        sleeper("peer", 0.06, peer=True),
        sleeper("foreign", 0.01, peer=True, requires="no_such_package"),
        bars=(Bar("speed", 1.2),),
    )


def test_times_and_throughput_are_those_of_the_work(record):
    ours, slow, peer = record["contenders"]
    for row, nap in ((ours, 0.02), (slow, 0.1), (peer, 0.06)):
        low, middle, high = row["run_seconds"]
        assert 2 * nap * 0.999 <= low <= middle <= high  # four naps are two calls
        assert row["throughput"] == pytest.approx(4 / middle, rel=1e-3)
    assert record["rounds"] == 3


def test_ratio_is_against_the_fastest_peer(record):
    ours, slow, peer = record["contenders"]
    assert record["reference"] == "peer"
    assert peer["ratio"] == [1, 1, 1]
    assert slow["ratio"][1] < 1 < ours["ratio"][1]
    (bar,) = record["bars"]
    assert bar["ratio"] == ours["ratio"]
    assert (bar["contender"], bar["against"], bar["met"]) == ("ours", "peer", True)


def test_a_ratio_of_times_turns_the_bar_round():
    contenders = sleeper("ours", 0.06), sleeper("peer", 0.02, peer=True)
    found = measured(*contenders, bars=(Bar("time", 1.05),))
    assert found["contenders"][0]["ratio"][1] > 1.05
    assert found["bars"][0]["met"] is False
    found = measured(*contenders, bars=(Bar("speed", 1.05),))
    assert found["contenders"][0]["ratio"][1] < 1
    assert found["bars"][0]["met"] is False


def test_bars_pick_their_own_peers_and_figures():
    def of(name, seconds, draws, **fields):
        figures = {"draws per gradient": (0.5 * draws, draws, 2 * draws)}
        program = Program(lambda: time.sleep(seconds), 2.0, {"result": 0.0}, figures=figures)
        return Contender(name, lambda: program, **fields)

    contenders = (
        of("ours, quick", 0.04, 0.1),
        of("ours, frugal", 0.16, 0.9),
        of("one peer", 0.08, 0.2, peer=True),
        of("other peer, a", 0.2, 0.3, peer=True, in_reference=False),
        of("other peer, b", 0.12, 0.1, peer=True, in_reference=False),
    )
    figure = "draws per gradient"
    bars = Bar("speed", 1.5), Bar("speed", 2.5, "other"), Bar(figure, 3.1, "other"), Bar("x", 1.0)
    found = measured(*contenders, bars=bars)
    first, second, third, fourth = found["bars"]
    assert found["reference"] == "one peer"
    assert (first["contender"], first["against"], first["met"]) == ("ours, quick", "one peer", True)
    assert second["against"] == "other peer, b" and second["ratio"][1] > 2.5 and second["met"]
    assert (third["contender"], third["against"]) == ("ours, frugal", "other peer, a")
    assert third["ratio"] == [3, 3, 3] and not third["met"]
    assert fourth["met"] is None
    results.check(run_of(found))
    text = table.text(found)
    assert "0.9 (0.45 to 1.8)" in text and "draws per gradient at least 3.1 times" in text


def test_an_absent_peer_is_named(record):
    assert record["absent"] == [{"name": "foreign", "reason": "not installed (no_such_package)"}]
    assert "foreign" in table.text(record) and "not installed" in table.text(record)


def test_without_a_peer_there_is_no_ratio():
    found = measured(sleeper("ours", 0.001), bars=(Bar("speed", 1.5),))
    assert found["reference"] is None and found["contenders"][0]["ratio"] is None
    assert found["bars"][0]["met"] is None
    assert "not decided" in table.text(found)
    results.check(run_of(found))


@pytest.mark.parametrize("errors", [{}, {"result": float("nan")}, {"loss": 0.0, "result": 0.01}])
def test_no_speed_without_accuracy(errors):
    peer = sleeper("peer", 0.001, peer=True, errors=errors)
    found = measured(sleeper("ours", 0.001), peer)
    assert [row["name"] for row in found["contenders"]] == ["ours"]
    assert found["absent"][0]["name"] == "peer"
    assert found["absent"][0]["reason"].startswith("withheld")


def test_the_error_is_shown(record):
    text = table.text(record)
    assert "error (result)" in text and "1.0e-07" in text


def test_a_peer_may_fail_and_ours_may_not():
    def broken():
        raise RuntimeError("no compiler\nat all")

    found = measured(sleeper("ours", 0.001), Contender("peer", broken, peer=True))
    assert found["absent"] == [{"name": "peer", "reason": "RuntimeError: no compiler"}]
    with pytest.raises(RuntimeError, match="no compiler"):
        measured(Contender("ours", broken))


def test_a_peer_that_is_late_is_left_out():
    def late():
        time.sleep(5)
        return Program(lambda: None, 1.0, {"result": 0.0})

    found = measured(sleeper("ours", 0.001), Contender("peer", late, peer=True, limit_seconds=0.05))
    assert found["absent"][0]["reason"] == "not ready within 0.05 seconds"


def test_the_budget_ends_the_rounds():
    assert measured(sleeper("ours", 0.01), effort=Effort(50, 0.0, 0.05))["rounds"] < 50
    assert measured(sleeper("ours", 0.01), effort=Effort(50, 0.0, 0.0))["rounds"] == 3


def test_contenders_take_turns():
    order = []

    def recorder(name):
        program = Program(lambda: order.append(name), 1.0, {"result": 0.0})
        return Contender(name, lambda: program, peer=name != "a")

    measured(recorder("a"), recorder("b"), effort=Effort(2, 0.0, 1.0))
    assert order == ["a", "b"] * 3  # one call each to warm up


def test_compiled_tells_seconds_and_memory():
    executable, seconds, temporary = harness.compiled(
        lambda x: jnp.sort(x @ x, axis=0).sum(), jnp.ones((64, 64))
    )
    assert float(executable(jnp.ones((64, 64)))) == 64**3
    assert seconds > 0
    assert temporary >= 64 * 64 * 4  # the product at least


def test_results_are_read_as_written(record, tmp_path):
    run = run_of(record)
    path = tmp_path / "new" / f"{machine.slug(run['machine'])}.json"
    results.write(run, path)
    assert results.load(path) == run == json.loads(path.read_text())
    results.write(run, path)


def test_results_of_two_machines_are_not_mixed(record, tmp_path):
    path = tmp_path / "here.json"
    other = run_of(record)
    other["machine"] = {**other["machine"], "cpu": "another"}
    results.write(other, path)
    with pytest.raises(ValueError, match="another machine"):
        results.write(run_of(record), path)
    assert results.load(path) == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.pop("machine"), "fields"),
        (lambda run: run.update(schema=1), "schema"),
        (lambda run: run["machine"].update(cores="two"), "cores"),
        (lambda run: run["cases"][0]["contenders"][0].update(errors={}), "without an accuracy"),
        (lambda run: run["cases"][0]["contenders"][0].update(throughput=None), "throughput"),
        (lambda run: run["cases"][0]["contenders"][0].update(run_seconds=[3, 2, 1]), "three"),
        (lambda run: run["cases"][0].update(ratio_of="luck"), "ratio_of"),
        (lambda run: run["cases"][0]["contenders"][0].update(figures={"x": [1, 2]}), "three"),
    ],
)
def test_a_wrong_record_is_refused(record, change, message, tmp_path):
    run = copy.deepcopy(run_of(record))
    change(run)
    with pytest.raises(ValueError, match=message):
        results.check(run)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(run))
    with pytest.raises(ValueError, match=r"wrong\.json"):
        results.load(path)


def test_the_machine_is_described_without_its_name():
    told = machine.describe()
    assert told["backend"] == jax.default_backend() and told["devices"] == jax.device_count()
    assert machine.conditions()["versions"]["jax"] == jax.__version__
    assert set(machine.slug(told)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_the_page_shows_machines_and_packages_apart(record):
    one, later, other = run_of(record), run_of(record), run_of(record)
    later["conditions"] = {**later["conditions"], "commit": "a later one"}
    other["machine"] = {**other["machine"], "cpu": "Another CPU"}
    text = render.page({"one": {"mcmc": one, "score": later}, "two": {"mcmc": other}})
    assert text.count("#### topic/module") == text.count("| ours |") == 3
    assert text.count("### `mcmc`") == 2 and text.count("## CPU") == 2
    assert "not installed (no_such_package)" in text
    assert text.index("### `score`") < text.index("a later one") < text.index("Another CPU")


def test_a_folder_holds_runs_of_one_machine(record, tmp_path):
    one, other = run_of(record), run_of(record)
    results.write(one, tmp_path / "here" / "mcmc.json")
    assert render.committed(tmp_path) == {"here": {"mcmc": one}}
    other["machine"] = {**other["machine"], "cpu": "another"}
    results.write(other, tmp_path / "here" / "score.json")
    with pytest.raises(ValueError, match="score.json is of another machine"):
        render.committed(tmp_path)


def test_the_committed_page_is_the_rendered_one():
    assert render.PAGE.read_text() == render.page(render.committed()), (
        "run python -m benchmarks.render"
    )
