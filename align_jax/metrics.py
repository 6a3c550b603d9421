"""Where a run's numbers go: JSON lines, TensorBoard and the progress bar, behind one small interface.

clu's own writers import TensorFlow; TensorBoard files are written by tensorboardX instead.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from align_jax.types import Mean, Result


class Recorder:
    """Takes device metrics one step late, so that reading them never waits for the step that is running."""

    def __init__(self, workdir: Path, *, start: int, steps: int, rows: int, every: int):
        workdir.mkdir(parents=True, exist_ok=True)
        self._lines = (workdir / "metrics.jsonl").open("a", buffering=1)
        self._board = SummaryWriter(str(workdir / "tensorboard"))
        self._every, self._steps, self._rows = every, steps, rows
        self._pending: tuple[int, Mapping[str, Mean]] | None = None
        self._since, self._since_step = time.perf_counter(), start
        self._live = sys.stderr.isatty()
        self._bar = tqdm(
            total=steps, initial=start, unit="step", disable=not self._live, dynamic_ncols=True, smoothing=0.05
        )

    def step(self, step: int, metrics: Mapping[str, Mean]) -> None:
        """Notes the metrics of finished step `step` (counted from 1) and writes those of the one before."""
        self._flush()
        self._pending = (step, metrics)

    def _flush(self) -> None:
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        self._bar.update(step - self._bar.n)
        if step % self._every and step != self._steps:
            return
        values = {name: mean.compute() for name, mean in jax.device_get(dict(metrics)).items()}
        now = time.perf_counter()
        speed = self._rows * (step - self._since_step) / max(now - self._since, 1e-9)
        left = (self._steps - step) * self._rows / max(speed, 1e-9)
        self._since, self._since_step = now, step
        self.write(step, values | {"pairs_per_second": speed})
        if self._live:
            self._bar.set_postfix_str(f"loss {values['loss']:.4f}, {speed:.0f} pairs/s")
        else:
            print(
                f"step {step}/{self._steps}  loss {values['loss']:.4f}  {speed:.0f} pairs/s  {duration(left)} left",
                file=sys.stderr,
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row of metrics.jsonl and the same scalars for TensorBoard."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name.replace("@", "_at_"), value, step)

    def results(self, step: int, results: list[Result]) -> None:
        """An evaluation's numbers; the time it took is not training time."""
        self._flush()
        self.write(step, {f"eval/{result.name}": result.value for result in results})
        self.message(table(results))
        self._since, self._since_step = time.perf_counter(), step

    def message(self, text: str) -> None:
        """A line or a table on screen, above the bar."""
        self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        """Writes what is pending."""
        self._flush()
        self._bar.close()
        self._board.close()
        self._lines.close()


def duration(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    hours, rest = divmod(round(seconds), 3600)
    return (f"{hours}:{rest // 60:02d}" if hours else f"{rest // 60}") + f":{rest % 60:02d}"


def table(results: list[Result]) -> str:
    """Results in columns: name, value, number of examples, protocol."""
    rows = [("", "value", "n", "protocol")] + [(r.name, f"{r.value:.4g}", str(r.n), r.protocol) for r in results]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)
