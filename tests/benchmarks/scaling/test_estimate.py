"""The estimate by hand, and what it takes from the counts."""

import pytest

from benchmarks.scaling.estimate import SOURCES, Links, estimate, traffic

LINKS = Links(1e9, 1e3, 8, 1e6, 1e5, 0.25, 2.0, 0.5)


def record(collectives, doubled, **fields):
    layouts = [{"devices": n, "processes": 1, "collectives": collectives[n]} for n in collectives]
    told = {
        "name": "p",
        "items": 16,
        "load": 64,
        "flops": [3e9 + 16e9, 3e9 + 32e9],
        "memory": [80.0, 160.0],
    }
    return told | {"layouts": layouts, "doubled": doubled} | fields


def one(kind, size, times=1.0, group=8):
    return {"kind": kind, "bytes": size, "group": group, "times": times}


def test_without_collectives_all_is_arithmetic():
    found = estimate(record({1: [], 8: []}, []), 1024, LINKS)
    assert found.flops == 3e9 + 64e9 and found.compute == 67.0
    assert (found.communication, found.sent, found.hops, found.efficiency) == (0, 0, 0, 1)


def test_memory_counts_where_it_takes_longer():
    found = estimate(record({8: []}, [], memory=[17_000.0, 33_000.0]), 8, LINKS)
    assert not found.is_memory  # 65 seconds
    found = estimate(record({8: []}, [], memory=[32_000.0, 64_000.0]), 8, LINKS)
    assert found.is_memory and found.compute == 128.0 and found.efficiency == 1


def test_a_gradient_goes_through_all():
    same = [one("all-reduce", 1000, 2.0)]
    found = estimate(record({2: [], 8: same}, same), 32, LINKS)
    sent = 2 * 31 / 32 * 1000
    hops_inside, hops_outside = 2 * 7, 2 * 2  # a chain of eight and a tree over four nodes
    each = 0.5 + 0.25 * hops_inside + 2.0 * hops_outside + sent / 1e5
    assert found.communication == pytest.approx(2 * each)
    assert found.sent == pytest.approx(2 * sent) and found.hops == 2 * 18
    assert found.efficiency == pytest.approx(67 / (67 + 2 * each))


def test_what_grows_with_the_items_stays_in_a_node():
    program = record({8: [one("all-gather", 1600)]}, [one("all-gather", 3200)])
    # 100 bytes for each of the items of a node, of which there are 8 x 64.
    assert traffic(program, 1024) == [("all-gather", 51_200, 8, 1.0)]
    found = estimate(program, 1024, LINKS)
    assert found.communication == pytest.approx(0.5 + 0.25 * 7 + 7 / 8 * 51_200 / 1e6)


def test_other_collectives_for_twice_the_items_are_refused():
    with pytest.raises(ValueError, match="twice the items"):
        traffic(record({8: [one("all-gather", 8)]}, [one("all-reduce", 8)]), 64)
    with pytest.raises(ValueError, match="twice the items"):
        traffic(record({8: [one("all-gather", 8)]}, []), 64)
    with pytest.raises(ValueError, match="multiple of 8"):
        traffic(record({8: []}, []), 12)


def test_the_printed_assumptions_are_those_that_are_used():
    units = {"TFLOP/s": 1e12, "TB/s": 1e12, "GB/s": 1e9, "µs": 1e-6}
    for field, value in Links()._asdict().items():
        number, _, unit = SOURCES[field][1].partition(" ")
        assert float(number) * units.get(unit, 1) == pytest.approx(value)
