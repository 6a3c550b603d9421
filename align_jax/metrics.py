"""Where a run's numbers go: JSON lines, TensorBoard and the progress bar, behind one small interface.

metrics.jsonl has rows {"step": s, name: value, ..}. Training and evaluation write rows of their own, and a resumed run
repeats the steps after its checkpoint: a reader takes the last value of each name at each step. events.jsonl has what
happened besides: {"time": seconds since 1970, "step": s, "event": name, ..}.

clu's own writers import TensorFlow; TensorBoard files are written by tensorboardX instead, which imports torch where it
finds it: only what writes them waits for that.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from tqdm import tqdm

from align_jax import files
from align_jax.types import Mean, Params, Result

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} steps, {elapsed}{postfix}"


class Recorder:
    """Takes device metrics one step late, so that reading them never waits for the step that is running.

    Speed is counted from the end of the first step on: compilation is no training time, nor are evaluation and saving.
    Metrics are those of the global batch, so one process writes and speaks for all.
    """

    def __init__(
        self, workdir: Path, *, start: int, steps: int, rows: int, every: int,
        examine: Callable[[int, Mapping[str, float]], Iterable[tuple[str, str]]] = lambda step, values: (),
    ):  # fmt: skip
        """`start`: finished steps; `rows`: of a global batch; `every`: steps between logged ones; `examine` looks at
        the values of each logged step and returns (sign, advice) of what is wrong with them."""
        self._writes = files.is_writer()
        workdir.mkdir(parents=True, exist_ok=True)
        self._lines = (workdir / "metrics.jsonl" if self._writes else Path(os.devnull)).open("a", buffering=1)
        self._events = (workdir / "events.jsonl" if self._writes else Path(os.devnull)).open("a", buffering=1)
        self._examine = examine
        self._at = start  # the step that was last started
        self._waited = 0.0  # seconds for data, since the time from which the speed is counted
        self._board = _board(workdir / "tensorboard", purge_step=start + 1) if self._writes else None
        self._every, self._steps, self._rows = every, steps, rows
        self._pending: tuple[int, Mapping[str, Mean]] | None = None
        self._left_out: list[Mean] = []  # of each step since the last logged one: whether it was not finite
        self._since: tuple[float, int] | None = None  # time and step from which the speed is counted
        quiet = None if self._writes else True  # None: where the screen is no terminal
        self._bar = tqdm(total=steps, initial=start, bar_format=BAR, disable=quiet, dynamic_ncols=True)

    def step(self, step: int, metrics: Mapping[str, Mean]) -> None:
        """Notes the metrics of step `step` (counted from 1), just started, and writes those of the one before."""
        self.flush()
        self._pending, self._at = (step, metrics), step

    def flush(self) -> None:
        """Waits for the last noted step and writes it: called before what is no training time."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self._bar.update(step - self._bar.n)
        self._left_out.append(metrics["non_finite_steps"])
        logged = step % self._every == 0 or step == self._steps
        if not logged and self._since is not None:
            return
        values = {name: mean.compute() for name, mean in jax.device_get(dict(metrics)).items()}
        since, self._since = self._since, (time.perf_counter(), step)
        waited, self._waited = self._waited, 0.0
        if not logged:
            return
        values["non_finite_steps"] = sum(float(mean.total) for mean in jax.device_get(self._left_out))
        self._left_out = []
        text = f"loss {values['loss']:.4f}"
        if since is not None:
            seconds = max(self._since[0] - since[0], 1e-9)
            speed = self._rows * (step - since[1]) / seconds
            values["pairs_per_second"] = speed
            values["data_wait"] = min(waited / seconds, 1.0)
            text += f", {speed:.0f} pairs/s, {duration((self._steps - step) * self._rows / speed)} left"
        self.write(step, values)
        self._bar.set_postfix_str(text)
        if self._bar.disable:
            self.message(f"step {step}/{self._steps}, {text}")
        for sign, advice in self._examine(step, values):
            self.event("doctor", advice, sign=sign)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for the next batch: its share of the time is written as data_wait."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    @contextmanager
    def aside(self, event: str) -> Iterator[None]:
        """Around what is no training, once the last step is written: an event with its seconds."""
        self.flush()
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        self.note(event, seconds=round(seconds, 3))
        if self._since is not None:
            self._since = (self._since[0] + seconds, self._since[1])

    def note(self, event: str, **facts: Any) -> None:
        """A row of events.jsonl."""
        row = {"time": round(time.time(), 3), "step": self._at, "event": event}
        self._events.write(json.dumps(row | facts) + "\n")

    def event(self, event: str, text: str, **facts: Any) -> None:
        """A row of events.jsonl, and a line on screen."""
        self.note(event, text=text, **facts)
        self.message(f"{event}: {text}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row of metrics.jsonl and the same scalars for TensorBoard."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if self._board is not None and math.isfinite(value):
                self._board.add_scalar(_tag(name), value, step)

    def results(self, step: int, results: list[Result]) -> None:
        """An evaluation's numbers, in a row of their own and as a table."""
        if results:
            self.write(step, {_name(result): result.value for result in results})
            self.message(table(results))

    def message(self, text: str) -> None:
        """A line or a table on screen, above the bar."""
        if self._writes:
            self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Writes what is pending, and why the run ended."""
        if error is None:
            self.flush()
        else:
            self.note("stopped", text=str(error) or type(error).__name__)
        self._bar.close()
        if self._board is not None:
            self._board.close()
        self._lines.close()
        self._events.close()


def write_scalars(folder: Path, step: int, results: list[Result]) -> None:
    """Writes an evaluation's numbers for TensorBoard, under the names that they have during training.

    `folder` is theirs alone: of each, TensorBoard follows the newest file, and would lose sight of a run that trains.
    """
    if files.is_writer():
        with _board(folder) as board:
            for result in results:
                if math.isfinite(result.value):
                    board.add_scalar(_tag(_name(result)), result.value, step)


def _board(folder: Path, **options: Any) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), **options)


def _name(result: Result) -> str:
    return f"eval/{result.name}"


def _tag(name: str) -> str:
    return name.replace("@", "_at_")


def duration(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    hours, rest = divmod(round(seconds), 3600)
    return (f"{hours}:{rest // 60:02d}" if hours else f"{rest // 60}") + f":{rest % 60:02d}"


def table(results: list[Result]) -> str:
    """Results in columns: name, value, number of examples, protocol."""
    rows = [("", "value", "n", "protocol")] + [(r.name, f"{r.value:.4g}", str(r.n), r.protocol) for r in results]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows)


def write_parameters(path: Path, params: Params, factors: Mapping[str, float]) -> None:
    """A table of all parameters: path, shape, dtype, size; and by layer their factors of the learning rate."""
    layers: dict[str, set[float]] = {}
    for name, factor in factors.items():
        layers.setdefault("/".join(name.split("/")[:2]), set()).add(factor)
    lines = [f"{name:40} {', '.join(f'{factor:.4g}' for factor in sorted(found))}" for name, found in layers.items()]
    overview = parameter_overview.get_parameter_overview(params, include_stats=False)
    text = "\n".join([overview, "", "Factors of the learning rate (0: frozen)", *lines, ""])
    files.write(path, lambda partial: partial.write_text(text))
