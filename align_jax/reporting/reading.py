"""The files of a run as they are found: any may be missing, torn or damaged. What is not used, `notes` tells."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align_jax.reporting.series import LARGEST, Series

LATEST = 253402300800  # seconds of the year 10000: no later time has a date
SHEET_BYTES = 2_000_000
PARAMETER_BYTES = 10_000_000
DEEPEST = 32  # of nested values: writing them again takes Python's stack
EXAMPLES = 3  # records shown for each reason to skip


@dataclass(frozen=True)
class Event:
    """One row of events.jsonl."""

    time: float  # unix seconds
    step: int
    kind: str
    facts: dict[str, Any]  # the whole row

    def seconds(self) -> float:
        """What it took; 0 where the row does not say."""
        return max(finite(self.facts.get("seconds")) or 0.0, 0.0)


@dataclass
class Skips:
    """Records that were replaced: those that a resumed run met again count once."""

    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))  # (step, id)


@dataclass
class Records:
    """All that a work directory tells of its run."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Series] = field(default_factory=lambda: defaultdict(Series))
    last_step: int | None = None  # of the last row of metrics.jsonl
    went_back: list[int] = field(default_factory=list)  # steps at which metrics.jsonl goes on from an earlier one
    results: list[dict[str, Any]] = field(default_factory=list)
    skips: Skips = field(default_factory=Skips)
    events: list[Event] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    bundles: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # (folder, bundle.json)
    parameters: list[str] = field(default_factory=list)  # lines
    sheet: bytes = b""  # a PNG
    notes: list[str] = field(default_factory=list)


def finite(value: Any) -> float | None:
    """A number of at most LARGEST, or None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:  # no nan is
        return float(value)
    return None


def mapping(value: Any) -> dict[str, Any]:
    """A dict, or an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def found(workdir: Path) -> bool:
    """Whether a run has written here."""
    names = ("config.json", "metrics.jsonl", "events.jsonl", "eval.json", "run.json", "parameters.txt")
    return any((workdir / name).exists() for name in names)


def read(workdir: Path) -> Records:
    """Reads all of it; raises nothing for what stands in the files."""
    records = Records(workdir.absolute().name)
    notes = records.notes
    records.config = mapping(_document(workdir / "config.json", dict, notes))
    records.run = mapping(_document(workdir / "run.json", dict, notes))
    results = listed(_document(workdir / "eval.json", list, notes))
    records.results = [row for row in results if isinstance(row, dict)]
    if len(records.results) < len(results):
        notes.append(f"eval.json: {len(results) - len(records.results)} entries are no results and were left out.")
    _each_row(workdir / "metrics.jsonl", notes, lambda row: _add_metrics(records, row))
    _each_row(workdir / "events.jsonl", notes, lambda row: records.events.append(_event(row)))
    seen: set[int] = set()
    for path in sorted(workdir.glob("skipped*.jsonl")):
        _each_row(path, notes, lambda row: _add_skip(records.skips, seen, row))
    for path in sorted(workdir.glob("replay/*/bundle.json")):
        records.bundles.append((path.parent.name, mapping(_document(path, dict, notes))))
    parameters = _small(workdir / "parameters.txt", PARAMETER_BYTES, notes)
    records.parameters = parameters.decode(errors="replace").splitlines()
    sheet = _small(workdir / "contact_sheet.png", SHEET_BYTES, notes)
    records.sheet = sheet if sheet.startswith(b"\x89PNG\r\n\x1a\n") else b""
    return records


def _document(path: Path, kind: type, notes: list[str]) -> Any:
    try:
        value = _shallow(json.loads(path.read_text("utf-8", errors="replace")))
    except FileNotFoundError:
        return None
    except OSError as error:
        notes.append(f"{path.name}: cannot be read ({error.strerror}).")
        return None
    except (ValueError, RecursionError):
        notes.append(f"{path.name}: is damaged: no JSON; it was left out.")
        return None
    if not isinstance(value, kind):
        notes.append(f"{path.name}: expected a {kind.__name__}, found another value; it was left out.")
    return value


def _shallow(value: Any) -> Any:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner for outer in level if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]  # fmt: skip
    if level:
        raise ValueError(f"nested deeper than {DEEPEST}")
    return value


def _each_row(path: Path, notes: list[str], use: Callable[[dict[str, Any]], None]) -> None:
    """Calls `use` with each JSON object of a file of lines; counts the lines that hold none or that `use` refuses."""
    damaged = 0
    try:
        for line in _lines(path):
            try:
                use(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
                damaged += 1
    except FileNotFoundError:
        return
    except OSError as error:
        notes.append(f"{path.name}: cannot be read ({error.strerror}).")
    if damaged:
        notes.append(f"{path.name}: {damaged:,} damaged line{'s' * (damaged > 1)}; only what is whole counts.")


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        yield from file


def _step(row: dict[str, Any], key: str = "step") -> int:
    step = row[key]
    if type(step) is not int or not 0 <= step < 2**53:
        raise ValueError(f"{key} {step!r}")
    return step


def _add_metrics(records: Records, row: dict[str, Any]) -> None:
    step = _step(row)
    if records.last_step is not None and step < records.last_step:
        records.went_back.append(step)
    records.last_step = step
    wrong = None
    for name, value in row.items():
        if name != "step":
            try:
                records.metrics[name].add(step, value)
            except (TypeError, OverflowError) as error:
                wrong = error  # the other values of the row are good
    if wrong is not None:
        raise wrong


def _event(row: dict[str, Any]) -> Event:
    time = finite(row["time"])
    if time is None or not 0 <= time < LATEST or not isinstance(row["event"], str):
        raise ValueError("an event needs a time and a name")
    return Event(time, _step(row), row["event"], _shallow(row))


def _add_skip(skips: Skips, seen: set[int], row: dict[str, Any]) -> None:
    step, position, name, reason = _step(row), _step(row, "position"), str(row["id"]), str(row["reason"])
    key = hash((step, position, name, reason))
    if key in seen:
        return
    seen.add(key)
    skips.reasons[reason] += 1
    if len(skips.examples[reason]) < EXAMPLES:
        skips.examples[reason].append((step, name))


def _small(path: Path, limit: int, notes: list[str]) -> bytes:
    """The bytes of a file; none of one longer than `limit`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        notes.append(f"{path.name}: cannot be read ({error.strerror}).")
        return b""
    if len(data) > limit:
        notes.append(f"{path.name}: longer than the {limit:,} bytes that are shown; see the file.")
        return b""
    return data
