"""Evaluates a model, and compares what was found of two.

python -m align_jax.evaluate --checkpoint=runs/demo                                  # by the evaluators of its config
python -m align_jax.evaluate --checkpoint=runs/demo/checkpoints/500 --evals=held_out,contact_sheet
python -m align_jax.evaluate --checkpoint=runs/demo/export --evals=mine.py:flowers --evals.flowers.source.split=test
python -m align_jax.evaluate --compare runs/a/card.json runs/b/card.json [--out=compare.md]

--regions: for a model that is shown stored regions, where those of the evaluators' sources lie: one store or several
with commas, in place of config.data.regions.path of its run.

A file of evaluators has get_config(), which returns a ConfigDict: name -> section, as in config.evals.
"""

import json
import runpy
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from align_jax import card as cards
from align_jax import code, compare, files
from align_jax import config as configs
from align_jax.cli import main_of
from align_jax.config import nearest
from align_jax.evals import page, statistics
from align_jax.loading import Stores, locate, parts_of, weights_at
from align_jax.metrics import table, write_scalars
from align_jax.reporting.text import duration
from align_jax.run import Run
from align_jax.types import AlignError, Evaluator, Result
from align_jax.weights import Weights

RESULTS = "eval.json"
PAGE = "evaluation.html"
OVERRIDE = "--evals."  # begins an argument that sets a value of a section


def evaluate(
    evaluators: Mapping[str, Evaluator], weights: Weights, parts: Run, out: Path, *, last: bool,
    tell: Callable[[str], None],
) -> Iterator[list[Result]]:  # fmt: skip
    """Runs one evaluator after the other, and yields what `record` returns of each: a later failure loses nothing.

    `last`: these weights are to be evaluated as a whole; else they are those of some step of a run.
    """
    with parts.embedder.remembering():
        for number, (name, evaluator) in enumerate(evaluators.items(), 1):
            tell(f"evaluating {name}, {number} of {len(evaluators)}")
            begun = time.perf_counter()
            results = list(evaluator.run(weights.params, weights.model_state))
            tell(f"evaluated {name} in {duration(time.perf_counter() - begun)}")
            yield record(results, weights, parts, out, last=last)


def record(found: Sequence[Result], weights: Weights, parts: Run, out: Path, *, last: bool) -> list[Result]:
    """Takes the results of one evaluator up into <out>/eval.json; returns them as a reader should see them.

    eval.json is a list of {name, value, n, protocol, interval (95 %, or null), facts, step, weights (their digest)}.
    Other evaluators' results stay; if this is the `last` evaluation of a run, those of the same weights alone, and they
    are written to the result card too.
    """
    digest = weights.digest
    fits = [f", {result.facts['fit']}" if "fit" in result.facts else "" for result in found]
    shown = [
        result._replace(protocol=f"{result.protocol}{fit}, {weights}") for result, fit in zip(found, fits, strict=True)
    ]
    if not found or not files.is_writer():
        return shown
    intervals = [result.outcome and statistics.interval(result.outcome) for result in found]
    rows = [
        {"name": result.name, "value": result.value, "n": result.n, "protocol": result.protocol, "interval": interval,
         "facts": dict(result.facts), "step": weights.step, "weights": digest}
        for result, interval in zip(shown, intervals, strict=True)
    ]  # fmt: skip
    own = {cards.evaluator(result.name) for result in found}
    kept = [
        row for row in _rows(out / RESULTS)
        if cards.evaluator(row["name"]) not in own and (not last or row.get("weights") == digest)
    ]  # fmt: skip
    files.write_json(out / RESULTS, [*kept, *rows])
    if last:
        by = code.digest()
        measured = [cards.Measured(*pair, by) for pair in zip(found, intervals, strict=True)]
        cards.add(cards.of(weights, parts.config), measured, out)
    return shown


def show(evaluators: Iterable[Evaluator], found: Sequence[Result], weights: Weights, parts: Run, out: Path) -> None:
    """Draws <out>/evaluation.html of what `record` returned, with the pictures of what the evaluators last found."""
    panels = [panel for evaluator in evaluators for panel in evaluator.panels()]  # on all processes: they compute
    told = cards.facts(cards.of(weights, parts.config)) | {"code": code.digest()}
    page.write(out / PAGE, title=f"Evaluation of {weights.path}", facts=told, results=found, panels=panels)


def evaluate_checkpoint(
    checkpoint: str | Path, *, evals: str | None = None, overrides: Sequence[str] = (), out: str | Path | None = None,
    regions: Stores | None = None,
) -> None:  # fmt: skip
    """What the verb does: prints the table; writes eval.json, the card and TensorBoard's scalars, also where it fails.

    Beside a run or an export goes what its own config asks of it, all else to a place apart, but for what has an `out`.

    Args:
      checkpoint, regions: as `loading.load` takes them.
      evals, overrides: as `sections` takes them.

    Raises:
      AlignError: before anything is compiled, for whatever can be wrong in these or in the data.
    """
    given = Path(checkpoint)
    place = locate(given)
    if place.source and out is None:
        raise AlignError(f"--out: expected a folder for what is found of {place.source}, which is no run or export")
    parts = parts_of(place.folder, regions)
    asked = sections(evals, parts.config.evals, overrides)
    own = given == place.folder and not overrides and ".py" not in (evals or "") and regions is None
    apart = place.folder / "evaluations" / ("" if place.step is None else f"step-{place.step}")
    folder = Path(out) if out else place.folder if own else apart
    files.check_writable(folder, flag="--out")
    evaluators = parts.evaluators(asked, folder)
    found: list[Result] = []
    with jax.set_mesh(parts.mesh):
        weights = weights_at(place, parts)
        try:
            for results in evaluate(evaluators, weights, parts, folder, last=True, tell=_tell):
                found += results
            show(evaluators.values(), found, weights, parts, folder)
        finally:
            if weights.step is not None:
                write_scalars(Path(out or place.folder) / "tensorboard" / "evaluate", weights.step, found)
            print(table(found))


def compare_cards(paths: Sequence[str], out: str | None = None) -> None:
    """Prints the comparison of two result cards, and writes it to the Markdown file `out`."""
    if len(paths) != 2:
        raise AlignError(f"--compare: expected two files, as in --compare a/card.json b/card.json, found {len(paths)}")
    comparison = compare.compare(*(cards.read(Path(path)) for path in paths))
    print(compare.text(comparison))
    if out:
        path = Path(out)
        files.check_writable(path.parent, flag="--out")
        files.write(path, lambda partial: partial.write_text(compare.markdown(comparison), "utf-8"))


def sections(asked: str | None, own: configs.Config, overrides: Sequence[str]) -> dict[str, Any]:
    """The sections that --evals asks for, with the values of `--evals.a.b=value` in them.

    Args:
      asked: names among `own`, separated by commas; FILE.py, or FILE.py:NAMES; None: all of `own`.
      own: config.evals of the run.
    """
    path, suffix, names = (asked or "").rpartition(".py")
    known = configs.plain(_file(Path(path + suffix)) if suffix else own)
    wanted = names.removeprefix(":").split(",") if names else list(known)
    for name in wanted:
        if name not in known:
            raise AlignError(f"--evals: found no evaluator {name!r}; {nearest(name, list(known))}")
    if not wanted:
        raise AlignError(f"--evals: expected evaluators in {asked or 'the config of the run'}, found none; give a file")
    for override in overrides:
        name = override.removeprefix(OVERRIDE).split(".")[0]
        if name not in wanted:
            raise AlignError(f"{override}: found no evaluator {name!r}; {nearest(name, wanted)}")
    chosen = ConfigDict({name: _tuples(known[name]) for name in wanted})
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "evals", chosen, flag_values=values, lock_config=False, accept_new_attributes=True, sys_argv=list(overrides)
        )
        values(["evaluate", *overrides])
    except (KeyError, AttributeError, ValueError, TypeError, flags.Error) as error:
        told = " ".join(str(error.args[0] if error.args else error).split())
        raise AlignError(f"{' '.join(overrides)}: expected values of the sections' keys and types: {told}") from error
    return configs.plain(chosen)


def _tuples(value: Any) -> Any:
    """Lists as JSON has them are tuples again, which is what an override can replace."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Of an earlier evaluation; none where the file is not there or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    found = found if isinstance(found, list) else []
    return [row for row in found if isinstance(row, dict) and isinstance(row.get("name"), str)]


def _file(path: Path) -> configs.Config:
    if not path.is_file():
        raise AlignError(f"--evals: expected a config file of evaluators or names of the run's own, found no {path}")
    try:
        made = runpy.run_path(str(path)).get("get_config")
        found = made() if callable(made) else None
    except Exception as error:  # whatever a user's file raises
        raise AlignError(f"--evals: {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, ConfigDict):
        raise AlignError(f"--evals: expected get_config() in {path} that returns a ConfigDict of sections by name")
    return found


def main(argv: list[str]) -> None:
    """Checks the flags."""
    values = flags.FLAGS
    overrides = [argument for argument in argv[1:] if argument.startswith(OVERRIDE)]
    others = [argument for argument in argv[1:] if argument not in overrides]
    if values.compare:
        return compare_cards(others, values.out)
    if values.checkpoint is None or others:
        raise AlignError(f"expected --checkpoint=FOLDER and other flags, or --compare A B; found {others or 'neither'}")
    evaluate_checkpoint(
        values.checkpoint, evals=values.evals, overrides=overrides, out=values.out, regions=values.regions
    )


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "a work directory (its last checkpoint), its checkpoints/STEP, an export")
    flags.DEFINE_string(
        "evals", None, "FILE.py, FILE.py:NAMES or names of the run's own evaluators; by default all own"
    )
    flags.DEFINE_list("regions", None, "stores of the regions that the model is shown, by default those of its run")
    flags.DEFINE_string("out", None, "folder for the results, by default the run's or one in it; a file for --compare")
    flags.DEFINE_bool("compare", False, "compare two result cards")
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow the two cards
    main_of(main, apart=OVERRIDE)
