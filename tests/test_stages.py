"""config.stages: chains of runs, their lengths in epochs, what one takes over from the other, and what is refused."""

import copy
import json
from pathlib import Path

import cross_run
import jax
import numpy as np
import pytest
import region_writers
import shapes_run
import tiny_run
from absl import flags
from ml_collections import ConfigDict, config_flags
from safetensors.numpy import load_file
from test_regions import convert
from test_resume import kill_after, last_rows

from align_jax import config as configs
from align_jax import main, stages, sweep, warm_start
from align_jax import plan as planner
from align_jax import run as runs
from align_jax import state as states
from align_jax.data import source as sources
from align_jax.types import AlignError


@pytest.fixture
def config(tmp_path):
    return tiny_run.config(tiny_run.manifest(tmp_path / "data"))


@pytest.mark.parametrize(
    ("said", "steps"),
    [(7, 7), ("7", 7), ("17 epochs", 425), ("0.5 epochs", 13), ("1 epoch", 25), (".001 epochs", 1), ("1.1 epochs", 28)],
)
def test_epochs_are_counted_exactly(said, steps):
    """ceil(epochs * 1000 / 40), at least one."""
    assert configs.steps(said, records=1000, batch_size=40) == steps


def test_a_product_of_floats_would_take_a_step_more():
    assert configs.steps("0.07 epochs", records=100) == 7 < 0.07 * 100


@pytest.mark.parametrize("said", [0, -1, 1.5, True, "", "0", "0 epochs", "0.0 epochs", "-1 epochs", "1.5", "two epochs",
                                  "2 epoch ", "1e3 epochs", None, (1,)], ids=repr)  # fmt: skip
def test_what_is_no_number_of_steps_is_refused(config, said):
    with config.ignore_type():
        config.steps = said
    with pytest.raises(
        AlignError, match=r"config.steps: expected a whole number of at least 1 or '<number> epochs', f"
    ):
        configs.check(config)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A, a mixture of A and B, B."""
    folder = tmp_path_factory.mktemp("chain")
    config = tiny_run.config(tiny_run.manifest(folder / "data"))
    other = str(tiny_run.manifest(folder / "other", 12))
    one = config.data.source.to_dict()
    both = {"name": "mixture", "sources": [{**one, "weight": 2.0}, {"name": "manifest", "path": other}]}
    config.optim = ConfigDict({**config.optim, "schedule": "constant", "ema": 0.9})  # one program for all stages
    config.checkpoint = ConfigDict({"every": 4, "keep": 9})
    config.task.image.update(stages=((1, 3, 1, 16),), strides=(2,))  # little to trace
    pairs = {"kind": "retrieval", "source": one}
    config.stages = (
        {"name": "web", "steps": "1 epoch", "skip": False},
        {"name": "both", "steps": "5 epochs", "data.source": both, "optimizer": "kept", "skip": False},
        {"name": "clean", "steps": "0.5 epochs", "data.source.path": other, "export": True, "evals": {"pairs": pairs}},
    )
    return config


ROWS = (
    {"group": "stages", "name": "three"},
    {"group": "stages", "name": "one", "stages[0].skip": True, "stages[1].skip": True},
)
COLUMN = "pairs/image_to_text/R@1"


def plan(*rows):
    return ConfigDict({"columns": {"R@1": COLUMN}, "seeds": (0,), "rows": rows})


@pytest.fixture(scope="module")
def swept(chain, tmp_path_factory):
    """The work directory of a sweep; its first row is the chain as it is."""
    workdir = tmp_path_factory.mktemp("sweep")
    sweep.sweep(chain, plan(*ROWS), workdir)
    return workdir


def file_of(config, folder: Path) -> Path:
    path = folder / "chain.py"
    resolved = json.dumps(configs.plain(config))
    path.write_text(
        f"import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({resolved!r}))\n"
    )
    return path


def test_a_chain_that_is_killed_ends_as_if_it_had_not_been(chain, swept, tmp_path, monkeypatch, capsys):
    """The second stage dies in its middle; the next call goes on there, and the first is not looked at again."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")  # as here: among fewer, sums are made in another order
    killed, whole = tmp_path / "killed", swept / "stages-three-0"
    process = shapes_run.start("align_jax.main", f"--config={file_of(chain, tmp_path)}", f"--workdir={killed}")
    kill_after(5, process, killed / "both")
    assert max(last_rows(killed / "both")) < 18, "the stage was over before it was killed"
    first = (killed / "web" / "events.jsonl").read_text()
    assert main.run(chain, killed) == 0
    err = capsys.readouterr().err
    assert "stage 2 of 3: both, 18 steps\n" in err and "stage 1 of 3" not in err
    assert "stage 3 of 3: clean, 1 steps; about " in err and "left for all" in err
    assert (killed / "web" / "events.jsonl").read_text() == first

    for name, steps in (("web", 2), ("both", 18), ("clean", 1)):
        assert last_rows(killed / name) == last_rows(whole / name)
        assert (killed / name / "vocab.txt").read_bytes() == (whole / "web" / "vocab.txt").read_bytes()
        assert configs.load(killed / name / "config.json").steps == steps == max(last_rows(killed / name))
    one, other = (load_file(folder / "clean" / "export" / "model.safetensors") for folder in (killed, whole))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def state_of(folder: Path, *, at_start: bool):
    config = configs.load(folder / "config.json")
    parts = runs.prepare(config, folder, None)
    with jax.set_mesh(parts.mesh):
        return warm_start.make(**config.init)(parts.fresh()) if at_start else parts.restored()


def test_a_kept_optimizer_begins_with_the_bits_that_the_other_ended_with(swept):
    """Its moments, its average and the weights as trained. A fresh one begins at the averaged weights, with zeros."""
    web, both, clean = (swept / "stages-three-0" / name for name in ("web", "both", "clean"))
    end, start = state_of(web, at_start=False), state_of(both, at_start=True)
    assert int(end.step) == 2 and int(start.step) == 0, "the schedule begins anew"
    for name in ("params", "model_state", "opt_state"):
        ended, began = (jax.tree.leaves_with_path(getattr(state, name)) for state in (end, start))
        assert [path for path, _ in ended] == [path for path, _ in began]
        for (path, old), (_, new) in zip(ended, began, strict=True):
            np.testing.assert_array_equal(old, new, err_msg=jax.tree_util.keystr(path))
    moments = [leaf for leaf in jax.tree.leaves(start.opt_state["transform"]) if leaf.ndim]
    assert moments and all(np.any(np.asarray(leaf)) for leaf in moments[:4])

    end, start = state_of(both, at_start=False), state_of(clean, at_start=True)
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(start.opt_state["transform"]))
    for old, new in zip(jax.tree.leaves(end.opt_state["ema"]), jax.tree.leaves(start.params), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_sweep_has_the_results_of_the_last_stage(chain, swept, capsys):
    rows = json.loads((swept / "sweep.json").read_text())
    for row, folder in zip(rows, ("stages-three-0", "stages-one-0"), strict=True):
        results = json.loads((swept / folder / "clean" / "eval.json").read_text())
        assert row["values"][COLUMN] == [next(r["value"] for r in results if r["name"] == COLUMN)]
    assert {path.name for path in (swept / "stages-one-0").iterdir()} == {"clean", "done.json"}
    assert not any(configs.load(swept / "stages-one-0" / "clean" / "config.json").init.values())
    assert "1 epoch in steps of 8 pairs, then 5 epochs in steps of 8 pairs, then" in (swept / "sweep.html").read_text()

    before = {path: path.stat().st_mtime_ns for path in swept.rglob("metrics.jsonl")}
    sweep.sweep(chain, plan(*ROWS), swept)
    assert {path: path.stat().st_mtime_ns for path in swept.rglob("metrics.jsonl")} == before
    other = {**ROWS[0], "stages[1].steps": "6 epochs"}
    with pytest.raises(AlignError, match=r"stages-three-0/both holds a run with config.steps = 18, this one has 21"):
        sweep.sweep(chain, plan(other), swept)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"stages[3].skip": True}, r"sweep.rows\[0\]: expected a key of one of 3 stages, found 'stages\[3\].skip'"),
        ({"stages[1].optim.warm": 1}, r"sweep.rows\[0\]: config.stages\[1\]: unknown key 'optim.warm'; did you mean"),
        ({"stages[1].steps": "2 ages"}, r"config.stages\[1\]: config.steps: expected .*, found '2 ages'"),
        ({"stages[2].evals": {}}, r"sweep.columns: expected results of config.evals \[\], found 'pairs/image"),
    ],
)
def test_a_row_with_a_wrong_stage_is_known_before_anything_trains(chain, tmp_path, row, message):
    with pytest.raises(AlignError, match=message):
        sweep.sweep(chain, plan({"group": "g", "name": "n", **row}), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def overridden(config, *arguments: str):
    """The config with what a command line says."""
    values, argv = flags.FlagValues(), ["main", *arguments]
    config_flags.DEFINE_config_dict("config", copy.deepcopy(config), flag_values=values, sys_argv=argv)
    values(argv)
    return values.config


def test_the_command_line_reaches_into_stages(chain, tmp_path):
    found = overridden(chain, "--config.stages[0].skip=True", "--config.stages[1].steps=3 epochs")
    left = stages.stage_configs(found, tmp_path)
    assert [(own.steps, folder.name) for own, folder in left] == [("3 epochs", "both"), ("0.5 epochs", "clean")]
    assert not left[0][0].init.checkpoints, "none before it: its optimizer begins anew"


def test_a_number_takes_the_place_of_epochs_on_the_command_line(chain):
    found = overridden(configs.override(chain, {"steps": "17 epochs"}, where=""), "--config.steps=50")
    assert stages.counted(found, sources.make(**chain.data.source)).steps == 50
    assert planner.counted(found).steps == 50
    found.steps = "3 epochs"
    assert planner.counted(found).steps == 6
    found.data.source.path = "nowhere/pairs.jsonl"
    with pytest.raises(AlignError, match=r"config.steps: 3 epochs, but .*nowhere.*; or give a number: --config.steps="):
        planner.counted(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("name", "web"), r"stages\[0\]: expected {'name': .., key: value} in a list, found 'name' in it"),
        (({"skip": 1},), r"stages\[0\].skip: expected True or False, found 1"),
        (({"optimizer": "kept"},), r"stages\[0\].optimizer: expected one of \('fresh',\), found 'kept'"),
        (({}, {"optimizer": "old"}), r"stages\[1\].optimizer: expected one of \('fresh', 'kept'\), found 'old'"),
        (({"skip": True},), r"expected at least one that is not skipped, of names that differ, found \[\]"),
        (({"name": "a"}, {"name": "a"}), r"of names that differ, found \['a', 'a'\]"),
        (
            ({"name": "a"}, {"init.text": "x"}),
            r"stages\[1\]: expected no 'init.text': it starts from the stage before, a",
        ),
        (({}, {"batch_size": 0}), r"stages\[1\]: config.batch_size: expected a whole number of at least 1, found 0"),
    ],
    ids=str,
)
def test_what_is_no_stage_is_refused(config, tmp_path, given, message):
    config.stages = given
    with pytest.raises(AlignError, match=message):
        stages.stage_configs(config, tmp_path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"optim.name": "lamb"}, "another config.optim.name or clip_norm"),
        ({"optim.clip_norm": 1.0}, "another config.optim.name or clip_norm"),
        ({"optim.ema": None}, r"\d+ arrays that differ, such as ema/\S+ of shape None here and \("),
        ({"freeze": ("text_tower",)}, r"\d+ arrays that differ, such as ema/text_tower/\S+ of shape None here and \("),
    ],
    ids=str,
)
def test_another_optimizer_is_refused_before_the_first_stage_trains(chain, tmp_path, monkeypatch, change, found):
    monkeypatch.setattr(states, "create", lambda *_, **__: pytest.fail("the mistake was found too late"))
    own = configs.override(chain, {f"stages[1].{key}": value for key, value in change.items()}, where="")
    own.optim.clip_norm = None  # as it is, but named
    message = rf"trained parameters of \S+/web, .*, found {found}.*leave 'optimizer' out"
    with pytest.raises(AlignError, match=message) as error:
        main.run(own, tmp_path / "run")
    assert "\n" not in str(error.value) and not list((tmp_path / "run").glob("*/config.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages[2].optim.name": "adamm"}, r"stages\[2\]: .*optim.name: expected one of .*, found 'adamm'"),
        ({"stages[1].task.embedding": 8}, r"stages\[1\]: .*/web 'all' -> 'all': expected \S+ of shape .*, found \("),
        ({"stages[2].data.vocab.size": 80}, r"stages\[2\]: .*/both .* expected text_tower/word_embedding/\S+ of shape"),
        ({"stages[1].task.text.layers": 2}, r"stages\[1\]: .* expected the same parameters .* on one only"),
        (
            {"stages[1].data.vocab.lowercase": False},
            r"stages\[1\]: config.data.vocab.lowercase: expected True, that of",
        ),
        ({"stages[2].data.source.path": "no.jsonl"}, r"stages\[2\]: .*no.jsonl"),
        ({"stages[0].skip": True, "stages[2].task.embedding": 8}, r"stages\[2\]: .*/both 'all' -> 'all': expected"),
    ],
    ids=str,
)
def test_a_stage_that_does_not_fit_is_known_before_the_first_trains(chain, tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(states, "create", lambda *_, **__: pytest.fail("the mistake was found too late"))
    own = configs.override(chain, change, where="")
    own.data.vocab.lowercase = True
    with pytest.raises(AlignError, match=f"^config.{message}") as error:
        main.run(own, tmp_path / "run")
    assert "\n" not in str(error.value) and not list((tmp_path / "run").glob("*/config.json"))


@pytest.fixture(scope="module")
def on_regions(tmp_path_factory):
    """A chain of two stages of a cross-encoder that is shown stored regions."""
    folder = tmp_path_factory.mktemp("on_regions")
    region_writers.openvqa_npz(folder / "given.npz", region_writers.images(2))
    convert("npz", folder / "given.npz", folder / "regions")
    config = cross_run.config(tiny_run.manifest(folder / "data"))
    config.data.regions = {"path": str(folder / "regions"), "width": region_writers.WIDTH, "most": 3}
    config.data.negatives.path, config.checkpoint.best = "", ""
    del config.task["image"]
    config.stages = ({"name": "web"}, {"name": "clean"})
    return config


class Trains(Exception):
    """A stage begins."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.regions.path": "nowhere"}, "nowhere: expected regions, found no regions.json; make them"),
        ({"data.regions.width": 9}, "config.data.regions: expected width=8 and classes=0 as in .*, found 9 and 0"),
        ({"data.negatives.path": "no.parquet"}, "config.data.negatives.path: .*, found no no.parquet"),
        ({"data.text_length": 2}, "config.data.text_length: expected at least 3 word pieces, found 2"),
        ({"checkpoint.best": "pairs/R@1"}, "config.checkpoint.best: expected a result of an evaluator"),
        ({"data.threads": 0}, "config.data: expected threads and prefetch of at least 1, found 0, 2"),
        ({"steps": 3}, None),
    ],
    ids=str,
)
def test_what_a_later_stage_lacks_is_known_before_the_first_trains(on_regions, tmp_path, monkeypatch, change, message):
    def create(*_, **__):
        raise Trains

    monkeypatch.setattr(states, "create", create)
    own = configs.override(on_regions, {f"stages[1].{key}": value for key, value in change.items()}, where="")
    with pytest.raises(
        AlignError if message else Trains, match=message and rf"^config.stages\[1\]: {message}"
    ) as error:
        main.run(own, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "clean").exists()


def test_a_later_stage_reads_the_vocabulary_that_the_first_one_has(on_regions, tmp_path, monkeypatch):
    """Though no folder of a stage before has it yet but that of the first, where it may be one of a failed start."""
    seen, own = [], copy.deepcopy(on_regions)
    own.stages = tuple({"name": name} for name in ("web", "both", "clean"))
    own.data.vocab.path = str(tmp_path / "vocab.txt")
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red")
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "vocab.txt").write_text("what a start that failed left\n")
    built = runs.Run.stream
    monkeypatch.setattr(runs.Run, "stream", lambda run, source: seen.append(run) or built(run, source))
    chain = stages.opened(own, tmp_path)
    parts = runs.prepare(chain[0].config, tmp_path / "web", chain[0].source)
    stages.refuse_unfit(chain, parts)
    assert [run.pairs.tokenizer.pieces for run in seen] == [pieces, pieces]
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "kept"}, "expected 'optimizer' to be True or False, found 'kept'"),
        (
            {"optimizer": True, "paths": {"text_tower": "text_tower"}},
            "expected an entry with 'optimizer' to be ",
        ),
        (
            {"optimizer": True, "checkpoint": "clean/export"},
            "expected a run, whose checkpoints have the op",
        ),
    ],
)
def test_an_optimizer_that_cannot_be_kept_is_refused(swept, change, message):
    entry = {"checkpoint": "clean", "paths": {"": ""}, **change}
    entry["checkpoint"] = str(swept / "stages-three-0" / entry["checkpoint"])
    with pytest.raises(AlignError, match=message):
        warm_start.make(checkpoints=(entry,))
