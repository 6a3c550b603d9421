"""Evaluators on a schedule, and the evaluate verb: any checkpoint by any evaluators; what was found is never lost."""

import json
import shutil

import numpy as np
import pytest
import shapes_run
import tiny_run
from absl import flags
from test_metrics import events

from align_jax import card as cards
from align_jax import checkpoint, cli, config, evals, evaluate, files, loading, main
from align_jax import run as runs
from align_jax.tasks.align import Align
from align_jax.types import AlignError, Evaluator, Outcome, Result

EVALS = """
from ml_collections import ConfigDict

def get_config():
    source = {"name": "manifest", "path": PATH}
    return ConfigDict({
        "other": {"kind": "zero_shot", "source": source, "templates": ("one {}",)},
        "words": {"kind": "retrieval", "source": source, "at": (2,)},
    })
"""


class Given(Evaluator):
    """Yields one result, and may then fail."""

    needs = ()

    def __init__(self, embedder, *, name, folder, breaks=False):
        self._name, self._breaks = name, breaks

    def run(self, params, model_state):
        outcome = Outcome(np.float32([0, 1, 1, 1]), ids="four")
        yield Result(f"{self._name}/share", 0.75, 4, "four of four", outcome, {"data": "d"})
        if self._breaks:
            raise AlignError("expected a disk, found none")


@pytest.fixture(autouse=True)
def given(monkeypatch):
    monkeypatch.setitem(evals.KINDS, "given", Given)


@pytest.fixture
def workdir(finished_run, tmp_path):
    """A run to write into, without what its evaluation wrote."""
    copied = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("eval.json", "card.*"))
    (tmp_path / "evals.py").write_text(EVALS.replace("PATH", repr(str(finished_run.parent / "pairs.jsonl"))))
    return copied


def rows(path):
    return json.loads((path / "eval.json").read_text())


def test_each_evaluator_keeps_its_own_schedule_and_training_does_not_notice(tmp_path):
    settings = tiny_run.config(tiny_run.manifest(tmp_path / "pictures"))
    settings.steps = 5
    assert main.run(settings, tmp_path / "plain") == 0
    settings.evaluate_every = 3
    settings.checkpoint.best = "often/image_to_text/R@1"
    source = settings.data.source.to_dict()
    settings.evals = {
        "often": {"kind": "retrieval", "source": source, "at": (1,), "every": 2},
        "default": {"kind": "given"},
        "late": {"kind": "given", "every": 0},
    }
    assert main.run(settings, tmp_path / "evaluated") == 0

    at, losses = {}, {"plain": [], "evaluated": []}
    for name, found in losses.items():
        for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            found += [row["loss"]] if "loss" in row else []
            for key in row:
                at.setdefault(key, []).append(row["step"])
    assert losses["plain"] == losses["evaluated"] and len(losses["plain"]) == 5
    assert at["eval/often/image_to_text/R@1"] == [2, 4, 5]
    assert at["eval/default/share"] == [3, 5] and at["eval/late/share"] == [5]
    happened = [json.loads(line) for line in (tmp_path / "evaluated" / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in happened if event["event"] == "evaluate"] == [2, 3, 4, 5], (
        "no other step is held up"
    )
    assert {row["name"]: row["step"] for row in rows(tmp_path / "evaluated")} == {
        "often/image_to_text/R@1": 5, "often/image_to_text/median_rank": 5, "often/text_to_image/R@1": 5,
        "often/text_to_image/median_rank": 5, "often/mean_recall": 5, "default/share": 5, "late/share": 5,
    }  # fmt: skip
    card = cards.read(tmp_path / "evaluated" / "card.json")
    assert card.step == 5 and len(card.results) == 7 and card.digest == rows(tmp_path / "evaluated")[0]["weights"]
    assert set(checkpoint.finished(tmp_path / "evaluated" / "checkpoints")) & {2, 4}, (
        "the best of those that were judged"
    )
    assert not (tmp_path / "plain" / "eval.json").exists() and not (tmp_path / "plain" / "card.json").exists()


def test_eval_json_holds_the_last_value_of_each_with_its_step(workdir):
    parts = loading.parts_of(workdir)
    weights = {step: loading.weights_at(loading.Place(workdir, step), parts) for step in (8, 12)}
    found = {name: [Result(f"{name}/share", 0.5, 2, "two")] for name in ("often", "seldom")}
    for name, step in (("seldom", 8), ("often", 8), ("often", 12)):
        evaluate.record(found[name], weights[step], parts, workdir, last=False)
    assert {row["name"]: row["step"] for row in rows(workdir)} == {"often/share": 12, "seldom/share": 8}
    assert rows(workdir)[0]["weights"] == weights[8].digest != weights[12].digest
    assert not (workdir / "card.json").exists(), "a card is of one model"
    shown = evaluate.record(found["often"], weights[12], parts, workdir, last=True)
    assert [row["name"] for row in rows(workdir)] == ["often/share"], "what other weights gave is gone"
    assert shown[0].protocol == "two, averaged weights at step 12"


@pytest.mark.parametrize("every", [-1, 1.5, "2"])
def test_a_schedule_that_cannot_be(every):
    with pytest.raises(AlignError, match=r"evals\.a\.every: expected a whole number of steps of at least 0, found"):
        evals.schedule({"a": {"kind": "given", "every": every}}, default=0)
    with pytest.raises(AlignError, match=r"evals\.seed: expected a section with a kind, found 3"):
        evals.schedule({"seed": 3}, default=0)


def test_the_best_must_be_measured_during_training(tmp_path):
    settings = tiny_run.config(tiny_run.manifest(tmp_path / "pictures"))
    settings.evals = {"late": {"kind": "given", "every": 0}, "early": {"kind": "given", "every": 2}}
    settings.evaluate_every = 1
    settings.checkpoint.best = "late/share"
    with pytest.raises(AlignError, match=r"takes place during training \(\['early'\]\), found 'late/share'"):
        main.run(settings, tmp_path / "run")


def test_another_checkpoint_by_evaluators_of_a_file(workdir, tmp_path):
    """A process: the flags of the verb, overrides included."""
    given = f"--evals={tmp_path / 'evals.py'}:other"
    templates = "--evals.other.templates=('a {}', '{} too')"
    out, err = shapes_run.finish(
        "align_jax.evaluate", f"--checkpoint={workdir / 'checkpoints' / '8'}", given, templates
    )
    folder = workdir / "evaluations" / "step-8"
    assert [row["name"] for row in rows(folder)] == ["other/top1", "other/mean_per_class", "other/majority_class"]
    assert all(row["step"] == 8 and "averaged weights at step 8" in row["protocol"] for row in rows(folder))
    assert "prompts ['a {}', '{} too']" in out and "evaluating other, 1 of 1" in err and "evaluated other in " in err
    assert cards.read(folder / "card.json").checkpoint == str(workdir / "checkpoints" / "8")
    assert not (workdir / "eval.json").exists()
    found = events(workdir / "tensorboard" / "evaluate")
    assert found[0] == (8, "eval/other/top1", pytest.approx(rows(folder)[0]["value"]))
    assert len(list((workdir / "tensorboard").glob("events.*"))) == 1, (
        "the run's own file stays the newest in its folder"
    )


def test_an_export_is_the_same_model(workdir, finished_run, capsys):
    evaluate.evaluate_checkpoint(workdir / "export", evals="pairs")
    of_export, of_run = (cards.read(path / "card.json") for path in (workdir / "export", finished_run))
    assert (of_export.digest, of_export.step) == (of_run.digest, 12)
    assert [row["value"] for row in rows(workdir / "export")] == [row["value"] for row in rows(finished_run)][:9]
    tags = {(step, tag) for step, tag, _ in events(workdir / "export" / "tensorboard" / "evaluate")}
    assert (12, "eval/pairs/text_to_image/R_at_1") in tags
    assert "pairs/image_to_text/R@1" in capsys.readouterr().out


def test_what_was_found_before_a_failure_stands(workdir, tmp_path, capsys):
    text = "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({})\n"
    sections = {
        "first": {"kind": "given"}, "second": {"kind": "given", "breaks": True},
        "third": {"kind": "given", "every": 7},
    }  # fmt: skip
    (tmp_path / "evals.py").write_text(text.replace("{}", repr(sections)))
    out = tmp_path / "out"
    with pytest.raises(AlignError, match="expected a disk, found none"):
        evaluate.evaluate_checkpoint(workdir, evals=f"{tmp_path / 'evals.py'}", out=out)
    assert [row["name"] for row in rows(out)] == ["first/share"]
    assert [measured.result.name for measured in cards.read(out / "card.json").results] == ["first/share"]
    assert events(out / "tensorboard" / "evaluate") == [(12, "eval/first/share", 0.75)]
    assert "first/share" in capsys.readouterr().out
    evaluate.evaluate_checkpoint(workdir, evals=f"{tmp_path / 'evals.py'}:third", out=out)
    assert [row["name"] for row in rows(out)] == ["first/share", "third/share"], "the same weights: it goes on"
    assert len(cards.read(out / "card.json").results) == 2


def test_a_model_without_a_text_tower_is_refused_before_anything_is_loaded(workdir, monkeypatch):
    def one_tower(self):
        return {"embed_images": lambda params, model_state, inputs: inputs["image"]}

    monkeypatch.setattr(Align, "functions", one_tower)
    monkeypatch.setattr(evaluate, "weights_at", pytest.fail)
    with pytest.raises(
        AlignError, match=r"evals\.pairs: needs 'embed_texts', the task offers \['embed_images'\]; a model"
    ):
        evaluate.evaluate_checkpoint(workdir)


def test_sections_are_chosen_by_name_and_overridden(workdir, tmp_path):
    own = config.load(workdir / "config.json").evals
    assert list(evaluate.sections(None, own, [])) == ["pairs", "colours", "sheet"]
    assert list(evaluate.sections("sheet,pairs", own, [])) == ["sheet", "pairs"]
    path = str(tmp_path / "evals.py")
    assert list(evaluate.sections(path, own, [])) == ["other", "words"]
    found = evaluate.sections(
        f"{path}:words", own, ["--evals.words.source.path=x.jsonl", "--evals.words.at=(1, 5)", "--evals.words.fold=3"]
    )
    assert found == {
        "words": {"kind": "retrieval", "source": {"name": "manifest", "path": "x.jsonl"}, "at": [1, 5], "fold": 3}
    }
    assert evaluate.sections("pairs", own, ["--evals.pairs.source.path=y"])["pairs"]["source"]["path"] == "y"
    assert own.pairs.source.path != "y"


@pytest.mark.parametrize(
    ("asked", "overrides", "match"),
    [
        ("pears", [], "--evals: found no evaluator 'pears'; did you mean 'pairs'"),
        ("none.py", [], r"--evals: expected a config file .* found no none\.py"),
        ("FILE:wordz", [], "--evals: found no evaluator 'wordz'; did you mean 'words'"),
        (
            "FILE",
            ["--evals.words.at.x=1"],
            r"^--evals\.words\.at\.x=1: expected values of the sections' keys and types",
        ),
        ("FILE", ["--evals.words.kind"], r"^--evals\.words\.kind: expected values"),
        ("FILE", ["--evals.wordz.at=1"], r"^--evals\.wordz\.at=1: found no evaluator 'wordz'; did you mean 'words'"),
        ("raises", [], "evals.py fails: ZeroDivisionError"),
        ("returns", [], "that returns a ConfigDict of sections by name"),
        ("empty", [], "expected evaluators in .*, found none; give a file"),
    ],
)
def test_sections_that_cannot_be(asked, overrides, match, workdir, tmp_path):
    path = tmp_path / "evals.py"
    texts = {
        "raises": "1 / 0", "returns": "def get_config():\n    return {}",
        "empty": "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()",
    }  # fmt: skip
    if asked in texts:
        path.write_text(texts[asked])
        asked = "FILE"
    with pytest.raises(AlignError, match=match) as error:
        evaluate.sections(asked.replace("FILE", str(path)), config.load(workdir / "config.json").evals, overrides)
    assert len(str(error.value).splitlines()) == 1


def test_a_checkpoint_that_is_not_there(workdir):
    for path, match in (
        (workdir / "checkpoints" / "7", r"expected a finished checkpoint, found those of steps \[8, 12\]"),
        (
            workdir / "checkpoints",
            "one of its checkpoints/STEP, an export, or a folder of Hugging Face, found none of these in",
        ),
        (workdir.parent, "expected a work directory with checkpoints/"),
    ):
        with pytest.raises(AlignError, match=match):
            loading.locate(path)
    shutil.rmtree(workdir / "checkpoints" / "12" / "state")
    assert loading.locate(workdir).step == 8, "an unfinished one is none"


def test_one_checkpoint_of_several_is_loaded(workdir):
    first, last = (loading.load(path) for path in (workdir / "checkpoints" / "8", workdir))
    assert np.abs(first.embed_texts(["red cross"]) - last.embed_texts(["red cross"])).max() > 0


def test_arguments_apart_reach_main_unparsed(monkeypatch):
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    assert cli._parse(["verb", "--evals.a.b=1", "x.json"], "--evals.") == ["verb", "x.json", "--evals.a.b=1"]
    with pytest.raises(SystemExit):
        cli._parse(["verb", "--evalz.a.b=1"], "--evals.")


def test_a_folder_that_cannot_be_written(workdir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AlignError, match="--out: expected a folder to write into"):
        evaluate.evaluate_checkpoint(workdir, out=tmp_path / "file" / "out")
    assert files.is_writer() and runs.sizes({"a": {"b": np.zeros((2, 3))}, "c": np.zeros(())}) == {"a": 6, "c": 1}
