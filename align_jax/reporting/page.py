"""From what was read to one self-contained page of HTML."""

import base64
import functools
import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from align_jax.reporting import text
from align_jax.reporting.charts import HEIGHT, WIDTH, Chart, chart
from align_jax.reporting.reading import Records, finite, listed, mapping
from align_jax.reporting.series import binned
from align_jax.reporting.templates import HERE, environment
from align_jax.reporting.timeline import Part, parts, state, step_of, stepping, timeline

# What a page of less than 1 MB has room for; it says what is left out, and where that stands.
CHARTS, FILES, ROWS = 60, 500, 200

# name -> (title, unit, begins at 0, logarithmic)
KNOWN = {
    "loss": ("Loss", "nats", False, False),
    "learning_rate": ("Learning rate", "", True, False),
    "temperature": ("Temperature", "", False, False),
    "gradient_norm": ("Gradient norm", "L2", False, True),
    "pairs_per_second": ("Throughput", "pairs/s", True, False),
    "data_wait": ("Waiting for data", "share of the time", True, False),
    "non_finite_steps": ("Non-finite steps", "since the row before", True, False),
}


def render(records: Records, *, now: float) -> str:
    """The page, written at unix time `now`."""
    return _template().render(_facts(records, now))


@functools.cache
def _template() -> jinja2.Template:
    made = environment(HERE)
    made.filters |= {
        "number": text.number, "short": text.short, "duration": text.duration, "utc": text.utc, "bytes": text.size,
        "value": _value, "count": _count,
    }  # fmt: skip
    return made.get_template("page.html")


def _facts(records: Records, now: float) -> dict[str, Any]:
    """What the template names."""
    starts = timeline(records.events).starts()
    spent, signs = parts(records), _signs(records)
    manifest = mapping(records.run.get("data"))
    files = [row for row in listed(manifest.get("files")) if isinstance(row, dict)]
    charts, undrawn = _charts(records)
    return {
        "name": records.name, "now": now, "state": state(records), "notes": _notes(records, len(signs)),
        "trained": _trained(records), "tiles": _tiles(records, spent), "results": _results(records), "charts": charts,
        "undrawn": undrawn, "width": WIDTH, "height": HEIGHT,
        "parts": spent, "whole": sum(part.seconds for part in spent), "timed": bool(records.events),
        "first": records.events[0].time if records.events else None,
        "last": max((event.time for event in records.events), default=None),
        "restarts": max(len(starts) - 1, 0), "resumed": _resumed(records),
        "skips": records.skips, "rows": ROWS, "non_finite": _non_finite(records), "bundles": _bundles(records),
        "signs": signs, "manifest": manifest, "files": files[:FILES], "left_out": len(files[FILES:]),
        "total": {key: sum(int(finite(row.get(key)) or 0) for row in files) for key in ("records", "bytes")},
        "problems": mapping(manifest.get("problems")),
        "versions": mapping(records.run.get("versions")), "config": dict(_flat(records.config)),
        "parameters": records.parameters, "sheet": base64.b64encode(records.sheet).decode(),
    }  # fmt: skip


def _value(value: Any) -> str:
    """A value of a config or of a fact, as JSON; a text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _count(value: Any) -> str:
    """A whole number with its thousands apart; anything else as it is."""
    return text.number(value) if type(value) is int else _value(value)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested sections; an empty section is a value."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plural(what: str) -> str:
    """'signs of trouble' of 'sign of trouble'."""
    first, space, rest = what.partition(" of ")
    return f"{first}s{space}{rest}"


def _notes(records: Records, signs: int) -> list[str]:
    """What one should know before one reads on."""
    counts = ((records.skips.reasons.total(), "skipped sample"), (_non_finite(records), "non-finite step"),
              (signs, "sign of trouble"))  # fmt: skip
    seen = [f"{count:,} {what if count == 1 else _plural(what)}" for count, what in counts if count]
    back = timeline(records.events).back
    times = "once" if len(back) == 1 else f"{len(back):,} times"
    return [
        *([f"See below: {', '.join(seen)}."] if seen else []),
        *([f"The clock went back {times}, by up to {text.duration(max(back))}; no time passed then."] if back else []),
        *records.notes,
    ]


def _trained(records: Records) -> list[tuple[str, str]]:
    """(label, sentence): what was trained, on what data, on what machine."""
    config, run = records.config, records.run
    task, data = mapping(config.get("task")), mapping(config.get("data"))
    source, optimizer = mapping(data.get("source")), mapping(config.get("optim"))
    total = re.search(r"^Total: ([\d,]+)", records.parameters[-1]) if records.parameters else None
    model = [str(task["name"])] if "name" in task else []
    model += [f"{total[1]} parameters"] if total else []
    model += [f"batches of {_value(config['batch_size'])}"] if "batch_size" in config else []
    model += [str(optimizer["name"])] if "name" in optimizer else []
    model += [f"seed {_value(config['seed'])}"] if "seed" in config else []
    count = finite(mapping(run.get("data")).get("records"))
    on = [f"{count:,.0f} records"] if count is not None else []
    on += [_value(source[key]) for key in ("name", "dataset", "path") if source.get(key)]
    on += [f"split {_value(source['split'])}"] if source.get("split") else []
    machine = [_value(run["device"])] if "device" in run else []
    machine += [f"{key} {_value(run[key])}" for key in ("devices", "processes", "code") if key in run]
    rows = (("Model", model), ("Data", on), ("Machine", machine))
    return [(label, ", ".join(words)) for label, words in rows if words]


def _tiles(records: Records, spent: list[Part]) -> list[tuple[str, float | None, str, str]]:
    """(label, value, how it is shown, what is said below): the run in six numbers."""
    step, steps = step_of(records), finite(records.config.get("steps"))
    rows = finite(records.config.get("batch_size"))
    seconds, _, pairs = stepping(records)
    wall = timeline(records.events).wall
    training = next(part.seconds for part in spent if part.name == "training")
    at, loss = records.metrics["loss"].settled() if "loss" in records.metrics else ([], [])
    return [
        ("Steps", step, "number", f"of {steps:,.0f}" if steps else ""),
        ("Wall time", wall if records.events else None, "duration", "from the first event to the last"),
        ("Pairs seen", int(step * rows) if step is not None and rows else None, "short", "steps x batch size"),
        ("Throughput", pairs / seconds if seconds else None, "number", "pairs/s, mean over the steps"),
        ("Last loss", float(loss[-1]) if len(loss) else None, "number", f"at step {at[-1]:,}" if len(at) else ""),
        (
            "Time in training",
            training / wall if seconds and wall else None,
            "share",
            "of the wall time, without waiting",
        ),
    ]


def _results(records: Records) -> list[list[dict[str, Any]]]:
    """Results of the last evaluation; neighbours of one protocol together. Those of eval.json tell their protocol."""
    rows = [
        {"name": _value(row.get("name", "")), "value": finite(row.get("value")), "n": _count(row.get("n", "")),
         "protocol": _value(row.get("protocol", ""))}
        for row in records.results
    ]  # fmt: skip
    if not rows:
        for name in sorted(records.metrics):
            if name.startswith("eval/"):
                steps, values = records.metrics[name].settled()
                if len(values):
                    rows.append({
                        "name": name.removeprefix("eval/"), "value": finite(float(values[-1])), "n": "",
                        "protocol": f"at step {steps[-1]:,}, by metrics.jsonl; eval.json, with protocols, is not there",
                    })  # fmt: skip
    return [list(group) for _, group in groupby(rows, lambda row: (row["n"], row["protocol"]))]


def _resumed(records: Records) -> list[int]:
    """The steps from which later starts went on."""
    line = timeline(records.events)
    return [line.from_step(start) for start in line.starts()[1:]] or records.went_back


def _charts(records: Records) -> tuple[list[Chart], int]:
    """Known metrics, evaluations, the others; and how many were not drawn for lack of room."""
    settled = {name: series.settled() for name, series in records.metrics.items()}
    span = (0.0, float(max((steps[-1] for steps, _ in settled.values() if len(steps)), default=1)))
    restarts = _resumed(records)
    if not _non_finite(records):
        settled.pop("non_finite_steps", None)
    evaluations = [name for name in sorted(settled) if name.startswith("eval/")]
    others = [name for name in sorted(settled) if name not in KNOWN and name not in evaluations]
    drawn = []
    for name in [*(name for name in KNOWN if name in settled), *evaluations, *others]:
        bins = binned(*settled[name])
        if len(bins.steps) < (2 if name in evaluations else 1):  # one evaluation is no curve: the table has it
            continue
        title, unit, zero, log = KNOWN.get(name, (name.removeprefix("eval/"), "", False, False))
        drawn.append(chart(title, unit, bins, span, restarts=restarts, zero=zero, log=log))
    return drawn[:CHARTS], len(drawn[CHARTS:])


def _non_finite(records: Records) -> int:
    if "non_finite_steps" not in records.metrics:
        return 0
    _, counts = records.metrics["non_finite_steps"].settled()
    return int(sum(finite(count) or 0 for count in counts.tolist()))


def _bundles(records: Records) -> list[tuple[str, str, str]]:
    """(step, folder, facts) of each replay bundle that stands in the folder or was told of."""
    found = {name: bundle for name, bundle in records.bundles}
    rows = [(_value(bundle.get("step", "")), f"replay/{name}", _scalars(bundle)) for name, bundle in found.items()]
    told = {str(event.facts.get("path", "")): event.step for event in records.events if event.kind == "non_finite"}
    gone = [(f"{step:,}", path, "not in this folder") for path, step in told.items() if Path(path).name not in found]
    return [*rows, *gone]


def _scalars(bundle: Mapping[str, Any]) -> str:
    """Its facts in a line; lists and sections by their length."""
    return ", ".join(
        f"{key}: {len(value)} entries" if isinstance(value, list | dict) else f"{key} {_value(value)}"
        for key, value in bundle.items() if key != "step"
    )  # fmt: skip


def _signs(records: Records) -> list[dict[str, Any]]:
    """The doctor's signs, each with how often and when it was seen, and its last advice."""
    signs: dict[str, dict[str, Any]] = {}
    for event in records.events:
        if event.kind == "doctor":
            sign = _value(event.facts.get("sign", ""))
            seen = signs.setdefault(sign, {"sign": sign, "first": event.step, "times": 0})
            seen |= {"last": event.step, "times": seen["times"] + 1, "text": _value(event.facts.get("text", ""))}
    return list(signs.values())
