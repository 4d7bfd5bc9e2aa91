"""One living line on a terminal, plain lines elsewhere, JSON on request."""

import io
import json

import numpy as np

from probjax import sharding
from probjax.sharding.progress import clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def chunk(start, stop, seconds, loss=0.5):
    metrics = {"loss": np.full(stop - start, loss)}
    return sharding.Chunk(None, start, stop, 30, metrics, seconds, stop == 30)


def feed(stream, **options):
    report = sharding.progress("train", stream=stream, **options)
    for border in (chunk(0, 10, 8.0), chunk(10, 20, 9.0, 0.25), chunk(20, 30, 10.0, float("nan"))):
        assert report(border) is None
    return stream.getvalue()


def test_plain_lines_and_a_rate_without_compilation():
    first, second, last = feed(io.StringIO()).splitlines()
    assert first == "train  10/30   33%  1.25 steps/s  loss 0.5  16.0 s left"
    assert second == "train  20/30   67%  10 steps/s  loss 0.25  1.0 s left"
    assert last == "train  30/30  100%  10 steps/s  loss nan  10.0 s"


def test_a_terminal_keeps_one_line():
    text = feed(Terminal())
    assert text.count("\r\x1b[2K") == 3
    assert text.count("\n") == 1 and text.endswith("\n")


def test_json_lines_stay_json():
    events = [json.loads(line) for line in feed(io.StringIO(), as_json=True).splitlines()]
    assert [event["step"] for event in events] == [10, 20, 30]
    assert [event["loss"] for event in events] == [0.5, 0.25, None]
    assert events[1]["per_second"] == 10


def test_clock():
    assert [clock(s) for s in (0.04, 59.9, 60.0, 3599.0, 3600.0)] == [
        "0.0 s", "59.9 s", "1 min 00 s", "59 min 59 s", "1 h 00 min",
    ]  # fmt: skip
