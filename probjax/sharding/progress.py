"""Progress of a chunked loop: one living line on a terminal, plain lines elsewhere.

>>> import io, jax.numpy as jnp
>>> from probjax import sharding
>>> stream = io.StringIO()
>>> def step(x, t):
...     return x, {"loss": x}
>>> _ = sharding.run_chunks(step, jnp.float32(0.25), 20, chunk_size=10,
...                         on_chunk=sharding.progress("train", stream=stream))
>>> print(stream.getvalue())
train  10/20   50%  ... steps/s  loss 0.25  ... left
train  20/20  100%  ... steps/s  loss 0.25  ...
"""

import io
import json
import math
import sys
from collections.abc import Callable

import jax
import numpy as np

from probjax.sharding.loops import Chunk


def progress(
    label: str,
    *,
    stream: io.TextIOBase | None = None,
    as_json: bool = False,
    show: tuple[str, ...] = ("loss",),
    unit: str = "steps",
) -> Callable[[Chunk], None]:
    """Make an `on_chunk` callback that tells rate, metrics and time left.

    The rate is that of the steps after the first chunk, whose time goes to compilation.

    Args:
        label: what is going on.
        stream: where to; standard error when `None`. A terminal gets one line that is rewritten.
        as_json: one JSON object on each line instead.
        show: names of the metrics (a dict of arrays) whose mean over the chunk is shown.
        unit: what is counted.

    Returns:
        The callback. Only the first process of several prints.

    Example:
        >>> from probjax import sharding
        >>> callback = sharding.progress("sampling", as_json=True)
    """
    out = sys.stderr if stream is None else stream
    first: list[Chunk] = []

    def report(chunk: Chunk) -> None:
        if jax.process_index() != 0:
            return
        first[:] = first or [chunk]
        steps, seconds = chunk.stop - first[0].stop, chunk.seconds - first[0].seconds
        if steps == 0:
            steps, seconds = chunk.stop - chunk.start, chunk.seconds
        rate = steps / max(seconds, 1e-9)
        left = (chunk.num_steps - chunk.stop) / rate
        metrics = chunk.metrics if isinstance(chunk.metrics, dict) else {}
        means = {name: float(np.mean(metrics[name])) for name in show if name in metrics}
        if as_json:
            event = {
                "event": "progress", "label": label, "step": chunk.stop,
                "num_steps": chunk.num_steps, "unit": unit, "per_second": rate,
                "seconds_left": left,
                **{name: value if math.isfinite(value) else None for name, value in means.items()},
            }  # fmt: skip
            print(json.dumps(event), file=out, flush=True)
            return
        width = len(str(chunk.num_steps))
        shown = "".join(f"  {name} {value:.4g}" for name, value in means.items())
        line = (
            f"{label}  {chunk.stop:>{width}}/{chunk.num_steps}  "
            f"{chunk.stop / chunk.num_steps:4.0%}  {rate:.4g} {unit}/s{shown}"
        )
        line += f"  {clock(chunk.seconds)}" if chunk.ending else f"  {clock(left)} left"
        if out.isatty():
            print(f"\r\x1b[2K{line}", end="\n" if chunk.ending else "", file=out, flush=True)
        else:
            print(line, file=out, flush=True)

    return report


def clock(seconds: float) -> str:
    """Write a duration as a person would.

    Args:
        seconds: how long.

    Returns:
        Seconds below a minute, minutes and seconds below an hour, else hours and minutes.

    Example:
        >>> clock(4.21), clock(75.0), clock(7300.0)
        ('4.2 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
