"""VTAB's numbers: of each task, of its three groups, and of all, over several runs."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from align_jax.data.vtab import GROUPS, TASKS


@dataclasses.dataclass(frozen=True)
class Scores:
    """One task. Scores are top-1 accuracies in [0, 1]; below 0, a trial that diverged."""

    task: str
    test: Sequence[float]  # of each run of the best trial
    examples: int  # of the test split
    data: str  # its digest
    val: Sequence[float]  # of each trial, on the 200
    best: int  # the trial that was taken
    settings: Mapping[str, Any]  # of that trial


def summary(found: Sequence[Scores]) -> dict[str, Any]:
    """{"all", "groups", "tasks"}: the mean and the standard deviation over runs of the mean over tasks.

    The deviation is that of a sample (n - 1), None of one run. "all" weighs tasks alike, as the benchmark does: groups
    weigh by their number of tasks.
    """
    groups = {group: [one for one in found if TASKS[one.task].group == group] for group in GROUPS}
    tasks = {one.task: _spread([one]) | _facts(one) for one in found}
    return {
        "all": _spread(found),
        "groups": {group: _spread(members) for group, members in groups.items() if members},
        "tasks": tasks,
    }


def _facts(one: Scores) -> dict[str, Any]:
    return {
        "group": TASKS[one.task].group,
        "examples": one.examples,
        "data": one.data,
        "best_trial": one.best,
        "val": one.val[one.best],
        "diverged": sum(score < 0 for score in one.val),
        "settings": dict(one.settings),
    }


def _spread(found: Sequence[Scores]) -> dict[str, Any]:
    runs = [statistics.fmean(scores) for scores in zip(*(one.test for one in found), strict=True)]
    deviation = statistics.stdev(runs) if len(runs) > 1 else None
    return {"mean": statistics.fmean(runs), "std": deviation, "runs": runs, "n_tasks": len(found)}


def markdown(result: Mapping[str, Any]) -> str:
    """The page of a summary, of which "checkpoint", "weights" and "protocol" tell what it is."""
    tasks = result["tasks"]
    lines = ["# VTAB-1k", "", f"Image tower of `{result['checkpoint']}`, weights {result['weights']}.", "",
             f"{result['protocol']}. In percent."]  # fmt: skip
    if len(tasks) < len(TASKS):
        lines += ["", f"**{len(tasks)} of the {len(TASKS)} tasks: the means are not those of the benchmark.**"]
    lines += ["", "| | tasks | test | std |", "|---|---:|---:|---:|"]
    for name, row in {"all": result["all"], **result["groups"]}.items():
        lines.append(f"| {name} | {row['n_tasks']} | {_percent(row['mean'])} | {_percent(row['std'])} |")
    lines += ["", "| task | examples | test | std | val200 | trial | diverged | settings |",
              "|---|---:|---:|---:|---:|---:|---:|---|"]  # fmt: skip
    for name, row in tasks.items():
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        lines.append(
            f"| {name} | {row['examples']} | {_percent(row['mean'])} | {_percent(row['std'])} | {_percent(row['val'])} "
            f"| {row['best_trial']} | {row['diverged']} | {settings} |"
        )
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"
