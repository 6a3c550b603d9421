"""Trains a config in several ways and sets the results side by side: a table and a plot, as an ablation study has them.

python -m align_jax.sweep --config=configs/align_demo.py --sweep=configs/sweeps/align_demo.py --workdir=runs/ablations

A sweep is a file whose get_config() names `columns` (title -> name of a result), `seeds`, and `rows`: each a group, a
name and dotted keys of the config with their values. Each row and seed trains in a folder of its own; the same command
goes on after a kill, and does nothing when all is done. Of a config with stages, the results are those of the last one;
{"stages[0].skip": True} leaves out the first, and {"stages[1].steps": "2 epochs"} sets a key of the second.
"""

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import config_flags

from align_jax import config as configs
from align_jax import files, stages
from align_jax import main as training
from align_jax.cli import main_of
from align_jax.config import Config
from align_jax.metrics import duration
from align_jax.reporting.sweep import Group, Row, render
from align_jax.types import AlignError
from align_jax.watch.preemption import PREEMPTED

SWEEP = config_flags.DEFINE_config_file("sweep", None, "the sweep file, configs/sweeps/*.py", lock_config=True)
KEYS = ("columns", "seeds", "rows")


def sweep(config: Config, plan: Config, workdir: Path) -> list[Group] | None:
    """Trains what is not trained yet; writes sweep.json and sweep.html after each run, and returns what they show.

    None where it was told to stop before the end: what is done stands, and the same call goes on.
    """
    configs.check_keys(plan, KEYS, KEYS, where="sweep")
    columns, seeds = dict(plan.columns), tuple(plan.seeds)
    runs = [(row, seed, _config(config, row, number, seed)) for seed in seeds for number, row in enumerate(plan.rows)]
    if not runs or not columns:
        raise AlignError(
            f"sweep: expected rows, seeds and columns, found {len(plan.rows)}, {len(seeds)} and {len(columns)}"
        )
    for _, _, own in runs:
        evaluators = stages.stage_configs(own, workdir)[-1][0].evals
        if unknown := [name for name in columns.values() if name.split("/")[0] not in evaluators]:
            raise AlignError(
                f"sweep.columns: expected results of config.evals {sorted(evaluators)}, found {unknown[0]!r}"
            )
    _refuse_same_names(plan.rows)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    folders: dict[str, Path] = {}  # rows with the same config are one run
    begun, trained = time.monotonic(), 0
    groups: list[Group] = []
    for number, (row, seed, own) in enumerate(runs):
        named = workdir / f"{_folder(row)}-{seed}"
        folder = folders.setdefault(json.dumps(configs.plain(own), sort_keys=True), named)
        done = folder / "done.json"
        if done.exists():
            stages.opened(stages.as_before(own, folder), folder)  # which refuses those of other configs and data
        else:
            left = (time.monotonic() - begun) / trained * (len(runs) - number) if trained else None
            print(f"sweep: {number + 1} of {len(runs)}, {row['group']} {row['name']}, seed {seed}"
                  + (f", {duration(left)} left" if left else ""), file=sys.stderr)  # fmt: skip
            if training.run(own, folder):
                return None
            last = stages.stage_configs(own, folder)[-1][1]
            files.write_json(done, {r["name"]: r["value"] for r in json.loads((last / "eval.json").read_text())})
            trained += 1
        results = json.loads(done.read_text())
        missing = [name for name in columns.values() if name not in results]
        if missing:
            raise AlignError(f"sweep.columns: no result {missing[0]!r}; {configs.nearest(missing[0], list(results))}")
        found.setdefault((row["group"], row["name"]), []).append({c: results[name] for c, name in columns.items()})
        groups = _groups(found)
        _write(groups, columns, config, workdir)
    return groups


def _folder(row: Config) -> str:
    return f"{row['group']}-{row['name']}".replace(" ", "_").replace("/", "_")


def _refuse_same_names(rows: Sequence[Config]) -> None:
    twice = [name for name, count in Counter(map(_folder, rows)).items() if count > 1]
    if twice:
        raise AlignError(f"sweep.rows: expected groups and names that make different folders, found {twice[0]!r} twice")


def _config(config: Config, row: Config, number: int, seed: int) -> Config:
    """The config of one run; every mistake is found before the first trains."""
    values: dict[str, Any] = dict(row)
    for key in ("group", "name"):
        if not values.pop(key, ""):
            raise AlignError(f"sweep.rows[{number}]: missing key {key!r}; name what the run shows")
    own = configs.override(config, {"seed": seed, **values}, where=f"sweep.rows[{number}]")
    try:
        configs.check(own)
        stages.stage_configs(own, Path())
    except AlignError as error:
        raise AlignError(f"sweep.rows[{number}]: {error}") from error
    return own


def _groups(found: dict[tuple[str, str], list[dict[str, float]]]) -> list[Group]:
    """Rows by group, in the order of the plan."""
    groups: dict[str, list[Row]] = {}
    for (group, name), results in found.items():
        values = {column: tuple(result[column] for result in results) for column in results[0]}
        groups.setdefault(group, []).append(Row(name, values))
    return [Group(name, rows) for name, rows in groups.items()]


def _write(groups: list[Group], columns: dict[str, str], config: Config, workdir: Path) -> None:
    rows = [
        {"group": group.name, "name": row.name, "values": {columns[title]: list(v) for title, v in row.values.items()}}
        for group in groups for row in group.rows
    ]  # fmt: skip
    files.write_json(workdir / "sweep.json", rows)
    facts = ", then ".join(_length(stage) for stage, _ in stages.stage_configs(config, workdir))
    page = render(groups, facts=facts, measured=columns)
    files.write(workdir / "sweep.html", lambda partial: partial.write_text(page, "utf-8"))


def _length(config: Config) -> str:
    """Of a run. How many steps its epochs are, its data say, which may be a row's own."""
    said = str(config.steps)
    if said.isdigit():
        return f"{int(said):,} steps of {config.batch_size:,} pairs each"
    return f"{said} in steps of {config.batch_size:,} pairs"


def table(groups: list[Group]) -> str:
    """Medians over seeds, as text."""
    columns = list(groups[0].rows[0].values)
    lines = [f"{'':<42}" + "".join(f"{column:>22}" for column in columns)]
    for group in groups:
        for row in group.rows:
            medians = (statistics.median(row.values[column]) for column in columns)
            lines.append(f"{group.name + ': ' + row.name:<42}" + "".join(f"{value:>22.3f}" for value in medians))
    return "\n".join(lines)


def main(_: list[str]) -> int:
    """Checks the flags; PREEMPTED where it was told to stop."""
    if SWEEP.value is None or training.CONFIG.value is None:
        raise AlignError("expected --config=configs/*.py and --sweep=configs/sweeps/*.py, found one of them missing")
    workdir = Path(training.WORKDIR.value)
    groups = sweep(training.CONFIG.value, SWEEP.value, workdir)
    if groups is None:
        return PREEMPTED
    if files.is_writer():
        print(f"{table(groups)}\n{workdir / 'sweep.html'}")
    return 0


if __name__ == "__main__":
    main_of(main)
