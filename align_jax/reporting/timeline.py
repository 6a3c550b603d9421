"""How a run went over time: its starts, how it stands, and where the time went."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from align_jax.reporting.reading import Event, Records, finite

ENDS = ("end", "stopped", "hung", "preempted")  # events after which a process of a run is gone


class Part(NamedTuple):
    """A part of the wall time."""

    name: str
    seconds: float
    how: str  # it was computed


@dataclass(frozen=True)
class Timeline:
    """The events of a run on a clock that never goes back."""

    events: list[Event]
    at: list[float] = field(default_factory=list)  # seconds since the first event
    back: list[float] = field(default_factory=list)  # seconds by which the clock went back, each time it did

    @property
    def wall(self) -> float:
        """Seconds from the first event to the last."""
        return self.at[-1] if self.at else 0.0

    def starts(self) -> list[int]:
        """The numbers of the events that are starts."""
        return [i for i, event in enumerate(self.events) if event.kind == "start"]

    def from_step(self, start: int) -> int:
        """The step from which that start went on."""
        event = self.events[start]
        step = finite(event.facts.get("from_step"))
        return event.step if step is None else int(step)

    def last(self) -> list[Event]:
        """The events from the last start on."""
        return self.events[max(self.starts(), default=0) :]

    def lost(self) -> list[bool]:
        """For each event, whether the time since the one before it was lost to a restart.

        It was from the last event at or before the step from which a start went on (all that came later was done
        again) to that start.
        """
        lost = [False] * len(self.events)
        for start in self.starts():
            step = self.from_step(start)
            kept = start - 1
            while kept > 0 and self.events[kept].step > step:
                kept -= 1
            for i in range(max(kept, 0) + 1, start + 1):
                lost[i] = True
        return lost


def timeline(events: list[Event]) -> Timeline:
    """`events` in the order of the file; where the clock went back, no time has passed."""
    line = Timeline(events)
    now = 0.0
    for i, event in enumerate(events):
        passed = event.time - events[i - 1].time if i else 0.0
        if passed < 0:
            line.back.append(-passed)
        now += max(passed, 0.0)
        line.at.append(now)
    return line


def step_of(records: Records) -> int | None:
    """The step at which the run stands; None where nothing tells."""
    steps = [event.step for event in timeline(records.events).last()]
    return max([*steps, records.last_step] if records.last_step is not None else steps, default=None)


def state(records: Records) -> tuple[str, str]:
    """(word, sentence): 'finished', 'stopped', 'hung', 'preempted', 'open' (no end was written) or 'unknown'."""
    step = step_of(records)
    here = "before its first logged step" if step is None else f"at step {step:,}"
    ends = [event for event in timeline(records.events).last() if event.kind in ENDS]
    if not records.events:
        return "unknown", f"{here.capitalize()}; there is no events.jsonl to say how it stands"
    if not ends:
        return "open", f"Running, or killed without a word: {here}, no end is written"
    # What comes after the first of them tells how the process went down, not why.
    event = ends[0]
    if event.kind == "end":
        return "finished", f"Finished {here}"
    if event.kind == "preempted":
        return "preempted", f"Preempted {here}: started again, it goes on from there"
    text = event.facts.get("text")
    return event.kind, f"{event.kind.capitalize()} {here}" + (f": {text}" if text else "")


def stepping(records: Records) -> tuple[float, float, float]:
    """(seconds in training steps, those of them spent waiting for data, pairs trained in them), by metrics.jsonl.

    A logged row stands for the steps since the row before: steps x batch size / pairs per second.
    """
    rows = finite(records.config.get("batch_size"))
    if not rows or "pairs_per_second" not in records.metrics:
        return 0.0, 0.0, 0.0
    steps, speed = records.metrics["pairs_per_second"].settled()
    logged, _ = records.metrics["loss"].settled() if "loss" in records.metrics else (steps, speed)
    logged = np.union1d(logged, steps)
    taken = np.diff(logged, prepend=0)[np.searchsorted(logged, steps)]
    good = np.isfinite(speed) & (speed > 1e-9)
    pairs = taken[good] * rows
    seconds = pairs / speed[good]
    waited = 0.0
    if "data_wait" in records.metrics:
        at, share = records.metrics["data_wait"].settled()
        _, mine, other = np.intersect1d(steps[good], at, assume_unique=True, return_indices=True)
        waited = float(np.sum(seconds[mine] * np.clip(np.nan_to_num(share[other]), 0, 1)))
    return float(seconds.sum()), waited, float(pairs.sum())


def parts(records: Records) -> list[Part]:
    """Where the wall time went; without events, only what metrics.jsonl tells."""
    line = timeline(records.events)
    in_steps, waited, _ = stepping(records)
    lost = line.lost()
    spent = {"save": 0.0, "evaluate": 0.0}
    for event, in_vain in zip(line.events, lost, strict=True):
        if event.kind in spent and not in_vain:
            spent[event.kind] += event.seconds()
    restarts = sum(line.at[i] - line.at[i - 1] for i, in_vain in enumerate(lost) if in_vain and i)
    known = [
        Part("training", max(in_steps - waited - spent["save"], 0.0),
             "steps x batch size / pairs_per_second of each row of metrics.jsonl, less waiting and checkpoints"),
        Part("waiting for data", waited, "data_wait of each row of metrics.jsonl x the time of its steps"),
        Part("checkpoints", spent["save"], "seconds of the save events: the loop stood still"),
        Part("evaluation", spent["evaluate"], "seconds of the evaluate events"),
        Part("restarts", restarts,
             "from the last event at or before the step that a start went on from, to that start: away, or in vain"),
    ]  # fmt: skip
    rest = max(line.wall - sum(part.seconds for part in known), 0.0)
    return [*known, Part("start-up and the rest", rest, "wall time less all of the above: compilation, first steps")]
