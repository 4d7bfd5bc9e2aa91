"""The harness on work whose time and error are known."""

import copy
import json
import re
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
        "effort": harness.QUICK._asdict(),
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
        (lambda run: run["effort"].update(name="none"), "effort"),
        (lambda run: run["effort"].pop("budget"), "effort"),
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


def test_a_record_without_its_effort_was_a_full_one(record, tmp_path):
    run = run_of(record)
    del run["effort"]
    path = tmp_path / "older.json"
    path.write_text(json.dumps(run | {"schema": 2}))
    found = results.load(path)
    assert found["effort"]["name"] == "full" and found["schema"] == results.SCHEMA
    assert "Effort: full. Versions" in render.tables(found)
    assert "Effort: quick (up to 5 rounds, 0.1 s a repeat, 6 s a case)" in render.tables(
        run_of(record)
    )


def test_pages_show_machines_and_packages_apart(record):
    one, later, other = run_of(record), run_of(record), run_of(record)
    later["conditions"] = {**later["conditions"], "commit": "a later one"}
    other["machine"] = {**other["machine"], "cpu": "Another CPU"}
    pages = render.pages({"one": {"mcmc": one, "score": later}, "two": {"mcmc": other}})
    assert set(pages) == {"index.md", "scaling.md", *(f"{name}.md" for name in render.AREAS)}
    assert pages["mcmc.md"].count("### topic/module") == pages["mcmc.md"].count("| ours |") == 2
    assert pages["mcmc.md"].count("## CPU") == 2 and pages["score.md"].count("## CPU") == 1
    assert "a later one" in pages["score.md"] and "a later one" not in pages["mcmc.md"]
    assert "not installed (no_such_package)" in pages["mcmc.md"]
    assert "No results are committed yet" in pages["diffeq.md"]
    first, second = pages["index.md"].split("## CPU")[1:]
    assert first.count("[module]") == 2 and second.count("[module]") == 1, "a table for each"
    assert "Another CPU" in second and "Another CPU" not in first


def test_links_of_the_summary_are_anchors_of_the_pages(record):
    pages = render.pages({"one": {"mcmc": run_of(record), "diffeq": run_of(record)}})
    links = re.findall(r"\]\((\w+\.md)#([\w-]+)\)", pages["index.md"])
    assert len(links) == 2
    for name, anchor in links:
        assert f"{{: #{anchor} }}" in pages[name]


def test_every_loss_is_told():
    """A missed bar of time, one of a figure, and a second contender that is behind."""

    def of(name, seconds, draws, **fields):
        figures = {"draws": (draws,) * 3}
        program = Program(lambda: time.sleep(seconds), 2.0, {"result": 0.0}, figures=figures)
        return Contender(name, lambda: program, **fields)

    bars = Bar("time", 1.5), Bar("draws", 2.0)
    contenders = of("slow", 0.1, 1.0), of("quick", 0.02, 3.0), of("peer", 0.04, 2.0, peer=True)
    page = render.pages({"one": {"mcmc": run_of(measured(*contenders, bars=bars))}})["index.md"]
    assert "2 ratios are asked for: 1 is met, 1 is missed." in page
    slower = page.partition("### Where we are slower")[2]
    missed, behind = slower.split("Contenders of ours")
    assert missed.count("[module]") == 1 and "draws at least 2 times 'peer'" in missed
    assert behind.count("[module]") == 1 and "| slow | peer | time | " in behind


def test_nothing_slower_is_said_too(record):
    page = render.pages({"one": {"mcmc": run_of(record)}})["index.md"]
    assert "1 ratio is asked for: 1 is met." in page
    slower = page.partition("### Where we are slower")[2]
    assert ": nothing." in slower and ": none." in slower and "| case |" not in slower


def test_a_folder_holds_runs_of_one_machine(record, tmp_path):
    one, other = run_of(record), run_of(record)
    results.write(one, tmp_path / "here" / "mcmc.json")
    assert render.committed(tmp_path) == {"here": {"mcmc": one}}
    other["machine"] = {**other["machine"], "cpu": "another"}
    results.write(other, tmp_path / "here" / "score.json")
    with pytest.raises(ValueError, match=r"score\.json is of another machine"):
        render.committed(tmp_path)


def test_committed_results_are_of_full_effort():
    runs = [run for machine in render.committed().values() for run in machine.values()]
    assert runs and all(run["effort"]["name"] == "full" for run in runs)


def test_the_committed_pages_are_the_rendered_ones():
    assert render.main(["--check"]) == 0, "run python -m benchmarks.render"
    pages = {path.name for path in render.FOLDER.glob("*.md")}
    assert pages == set(render.pages({})), "a page that nothing writes"


def test_the_check_sees_a_stale_page(monkeypatch, tmp_path):
    monkeypatch.setattr(render, "FOLDER", tmp_path / "pages")
    assert render.main(["--check"]) == 1
    assert render.main([]) == 0 == render.main(["--check"])
    (tmp_path / "pages" / "score.md").write_text("stale")
    assert render.main(["--check"]) == 1
