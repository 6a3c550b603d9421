"""Fine-tuning as a classifier: its loss, frozen statistics, stages from an ALIGN run, its data and its accuracy."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes_run
import tiny_run
import torch
from ml_collections import ConfigDict
from PIL import Image
from safetensors.numpy import save_file
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

import align_jax
from align_jax import config as configs
from align_jax import evals, optim, paths, plan, sharding, tasks, train
from align_jax import run as runs
from align_jax import state as states
from align_jax.data import labelled
from align_jax.data import source as sources
from align_jax.data.examples import KINDS
from align_jax.data.source import BadExample, Record
from align_jax.data.views import Resized
from align_jax.evals.embedding import Embedder
from align_jax.losses.classification import cross_entropy
from align_jax.models.blocks import ALL
from align_jax.tasks import classify
from align_jax.types import AlignError


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_equals_torch(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 5)).astype(np.float32) * 9, rng.integers(0, 5, 7)
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        theirs, torch.tensor(labels), reduction="none", label_smoothing=smoothing
    )
    expected.sum().backward()
    value, pull = jax.vjp(lambda x: cross_entropy(x, jnp.asarray(labels), label_smoothing=smoothing), logits)
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones(7))[0], theirs.grad.numpy(), atol=1e-6)


SMALL = classify.build(  # one block in two has a skip connection, and so stochastic depth
    image={"width": 0.25, "stages": ((2, 3, 1, 16),), "strides": (2,), "bn_group_size": 4, "stochastic_depth": 0.5},
    label_smoothing=0.1, image_size=16, classes=5,
)  # fmt: skip


LOCKED = SMALL.model.clone(image_tower=SMALL.model.image_tower.clone(locked=ALL))


class Bench:
    """SMALL with some of its fields changed, its step compiled once."""

    mesh = sharding.make_mesh(devices=1)

    def __init__(self, *, freeze=(), dropout=0.0, rows=8, **changes):
        model = changes.pop("model", SMALL.model.clone(dropout=dropout))
        self.task = dataclasses.replace(SMALL, model=model, **changes)
        self.optimizer = optim.make(steps=4, learning_rate=0.1, warmup=0, name="sgd", freeze=freeze)
        self.batch = sharding.place(self.mesh, self.task.dummy_batch(rows))
        with jax.set_mesh(self.mesh):
            self.fresh = states.create(self.task, self.optimizer, self.task.dummy_batch(1), seed=0, mesh=self.mesh)
        self._step = jax.jit(functools.partial(train.step_fn, self.task, self.optimizer))
        self._loss = jax.jit(lambda *arguments: self.task.loss(*arguments)[0])

    def step(self, seed=0):
        """(the state after one step, its loss, its metrics)"""
        key = jax.device_put(jax.random.key(seed), sharding.replicated(self.mesh))
        with jax.set_mesh(self.mesh):
            after, metrics, _ = self._step(dataclasses.replace(self.fresh, rng=key), self.batch)
        return after, metrics["loss"].compute(), metrics

    def loss(self, seed):
        """The loss alone."""
        key = jax.device_put(jax.random.key(seed), sharding.replicated(self.mesh))
        with jax.set_mesh(self.mesh):
            return float(self._loss(self.fresh.params, self.fresh.model_state, (), self.batch, key, self.fresh.step))

    def inference(self):
        """(loss by torch, accuracy) of what classify_images gives."""
        classify_images = jax.jit(self.task.functions()["classify_images"])
        logits = classify_images(self.fresh.params, self.fresh.model_state, self.batch)
        tensors = torch.tensor(np.asarray(logits)), torch.tensor(np.asarray(self.batch["label"]), dtype=torch.int64)
        loss = torch.nn.functional.cross_entropy(*tensors, label_smoothing=self.task.label_smoothing)
        return float(loss), float((tensors[0].argmax(1) == tensors[1]).float().mean())


def changed(before, after):
    before, after = paths.flatten(before), paths.flatten(after)
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(np.asarray(before[path]), np.asarray(after[path]))}


def test_a_frozen_tower_gives_the_features_of_inference():
    bench = Bench(freeze=("image_tower",), model=LOCKED)
    after, loss, metrics = bench.step()
    expected, right = bench.inference()
    assert loss == pytest.approx(expected, rel=1e-5) and bench.step(seed=1)[1] == loss
    assert metrics["accuracy"].compute() == pytest.approx(right) and metrics["loss"].count == 8
    assert changed(bench.fresh.params, after.params) == {"head/kernel", "head/bias"}
    assert not changed(bench.fresh.model_state, after.model_state)


def test_frozen_statistics_stay_while_the_weights_train():
    tower = SMALL.model.image_tower.clone(stochastic_depth=0.0)
    bench = Bench(frozen_statistics=True, model=SMALL.model.clone(image_tower=tower))
    after, loss, _ = bench.step()
    assert loss == pytest.approx(bench.inference()[0], rel=1e-5)
    assert changed(bench.fresh.params, after.params) == set(paths.flatten(bench.fresh.params))
    assert not changed(bench.fresh.model_state, after.model_state)
    bench.task.check(3)  # no groups, no multiples of them
    drawing = Bench(frozen_statistics=True)
    assert drawing.loss(0) != drawing.loss(1), "stochastic depth stays on"


def test_micro_batches_change_nothing():
    whole, parts = (Bench(dropout=0.1, rows=16, micro_batches=count) for count in (1, 2))
    (one, loss, _), (two, same, _) = whole.step(), parts.step()
    assert same == pytest.approx(loss, rel=1e-6)
    for tree, other in ((one.params, two.params), (one.model_state, two.model_state)):
        for path, value in paths.flatten(tree).items():
            np.testing.assert_allclose(paths.flatten(other)[path], value, rtol=1e-3, atol=2e-5, err_msg=path)
    with pytest.raises(AlignError, match=r"multiple of micro_batches \(2\) x image.bn_group_size \(4\) rows, found 4"):
        parts.task.check(4)


def small(manifest, workdir=None):
    """The config of a run that goes on from tiny_run's tower."""
    config = tiny_run.config(manifest)
    image = config.task.image
    config.task = ConfigDict({"name": "classify", "image": image, "dropout": 0.1})
    reading = {key: config.data[key] for key in runs.READING}
    own = {"classes": 4, "augment": "inception", "crop": 32, "eval_crop": 40, "flip": True}
    config.data = ConfigDict(reading | own)
    config.optim = ConfigDict({"name": "sgd", "learning_rate": 0.1, "warmup": 0})
    return config


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """16 shapes in four colours, which are their classes."""
    return shapes_run.write_pairs(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, manifest):
    """(parameters, model state, folder) of an export of an ALIGN that has learnt nothing."""
    folder = tmp_path_factory.mktemp("align")
    config = tiny_run.config(manifest)
    parts = runs.prepare(config, folder, sources.make(**config.data.source))
    with jax.set_mesh(parts.mesh):
        state = parts.fresh()
    # Statistics as of a trained tower: neither zeros nor ones.
    statistics = jax.tree.map(lambda x: x * 0.9 + 0.2, state.model_state)
    tree = paths.flatten({"params": state.params, "model_state": statistics})
    save_file({path: np.asarray(leaf) for path, leaf in tree.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(configs.plain(config)))
    return state.params, statistics, folder


def test_head_first_then_all_from_an_align_export(manifest, pretrained, tmp_path):
    params, statistics, folder = pretrained
    config = small(manifest)
    accuracy = {"kind": "accuracy", "source": dict(config.data.source)}
    config.update({"steps": 3, "evals": {"own": accuracy}, "export": True, "seed": 5})
    config.optim.update({"weight_decay": 1e-5, "groups": (), "schedule": "cosine"})
    config.task.frozen_statistics = False
    config.stages = (
        {"name": "head", "freeze": ("image_tower",), "steps": 2},
        {"name": "all", "optim.learning_rate": 0.01, "optim.groups": (("image_tower", 0.1),), "data.crop": 40,
         "data.eval_crop": 48, "task.frozen_statistics": True},
    )  # fmt: skip
    file = tmp_path / "config.py"
    body = f"from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({configs.plain(config)!r})\n"
    file.write_text(body.replace("'checkpoints': []", "'checkpoints': ()").replace("'freeze': []", "'freeze': ()"))
    init = f"--config.init.checkpoints=({{'checkpoint': {str(folder)!r}, 'paths': {{'image_tower': 'image_tower'}}}},)"
    out = tmp_path / "run"
    shapes_run.finish("align_jax.main", f"--config={file}", f"--workdir={out}", init)

    head, everything = (align_jax.load(out / name) for name in ("head", "all"))
    assert not changed(params["image_tower"], head.params["image_tower"])
    assert not changed(statistics, head.model_state) and not changed(statistics, everything.model_state)
    assert changed(params["image_tower"], everything.params["image_tower"]) == set(paths.flatten(params["image_tower"]))
    assert changed(head.params, everything.params) == set(paths.flatten(head.params))
    assert (out / "all" / "classes.txt").read_text().split() == sorted(shapes_run.COLOURS)

    rows = {row["name"]: row for row in json.loads((out / "all" / "eval.json").read_text())}
    assert set(rows) == {"own/top1", "own/mean_per_class", "own/majority_class"}
    assert "4 classes, central 0.875 of the shorter side at 48 px" in rows["own/top1"]["protocol"]
    files = [record.image for record in sources.make(**config.data.source)]
    exported = align_jax.load(out / "all" / "export")
    logits = exported.classify_images(files)
    truth = [sorted(shapes_run.COLOURS).index(name.rsplit("/", 1)[-1].split("_")[0]) for name in files]
    assert rows["own/top1"]["value"] == pytest.approx((logits.argmax(1) == truth).mean())

    assert json.loads((out / "all" / "export" / "preprocessing.json").read_text())["keep_aspect"] is True
    with pytest.raises(AlignError, match="embed_texts: the model has no such function, only"):
        exported.embed_texts(["a red ellipse"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": {"size": 64}}, "config.data: unknown key 'vocab'"),
        ({"crops": 3}, "unknown key 'crops'; did you mean 'crop'"),
        ({"classes": 5}, r"expected the 4 classes of the source \(blue, green, orange, ..\), found 5; set"),
        ({"resize": 36}, "config.data with augment 'inception': unknown key 'resize'"),
        ({"augment": "align"}, "config.data with augment 'align': missing key 'resize'"),
        ({"augment": "align", "resize": 36, "area": (0.1, 1.0)}, "augment 'align': unknown key 'area'"),
        ({"augment": "align", "resize": 31}, "expected 0 < crop <= resize, found 32 and 31"),
        ({"augment": "mixup"}, r"expected one of \('align', 'inception'\), found 'mixup'"),
        ({"area": (0.0, 1.0)}, "rising shares"),
    ],
)
def test_wrong_data_are_refused_before_anything_is_compiled(manifest, tmp_path, change, message):
    config = small(manifest)
    config.data.update(change)
    with pytest.raises(AlignError, match=message) as error:
        runs.prepare(config, tmp_path, sources.make(**config.data.source))
    assert "\n" not in str(error.value)


def test_sources_without_classes_and_folders_without_a_run_are_refused(manifest, tmp_path):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    bare = manifest.with_name("bare.jsonl")
    bare.write_text("".join(json.dumps({key: row[key] for key in ("image", "texts")}) + "\n" for row in rows))
    config = small(bare)
    with pytest.raises(AlignError, match="expected a source with classes, found none"):
        runs.prepare(config, tmp_path, sources.make(**config.data.source))
    with pytest.raises(AlignError, match=r"expected .*classes\.txt; the folder is no run or export"):
        runs.prepare(config, tmp_path, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing and dropout in \[0, 1\)"),
        ({"text": {}}, "config.task: unknown key 'text'"),
        ({"gather": "blocks"}, "config.task.gather: expected one of"),
        ({"image.variant": "b9"}, "'b9' is unknown"),
    ],
)
def test_a_wrong_task_is_refused(manifest, change, message):
    config = small(manifest)
    config.task.update({"image": dict(config.task.image)})
    for key, value in change.items():
        node = config.task.image if key.startswith("image.") else config.task
        node[key.removeprefix("image.")] = value
    with pytest.raises(AlignError, match=message):
        tasks.make(config)


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [(("image_tower",), True), (("image_tower/*",), True), (("*",), True), (("image_tower/block_*", "head"), False),
     ((), False)],
)  # fmt: skip
def test_a_tower_is_frozen_where_all_of_it_is(manifest, freeze, frozen):
    config = small(manifest)
    config.freeze = freeze
    task = tasks.make(config)
    assert isinstance(task, classify.Classify) and (task.locked == ("image_tower/*",)) is frozen


def test_every_task_learns_from_examples_that_there_are():
    for name in tasks.names():
        assert tasks.examples(ConfigDict({"task": {"name": name}})) in KINDS


def test_a_plan_varies_a_model_without_texts(manifest):
    config = small(manifest)
    config.task.update({"micro_batches": 1, "gather": "step"})
    config.task.image.remat = "none"
    assert "block" in {variant.task.image.remat for _, variant in plan.variants(config, 8)}


def test_a_record_without_a_label_is_a_bad_example(manifest, tmp_path):
    config = small(manifest)
    data = runs.prepare(config, tmp_path, sources.make(**config.data.source)).pairs
    picture = np.zeros((8, 8, 3), np.uint8)
    row = data.train(Record("a", picture, (), "a", label=2), np.random.default_rng(0))
    assert row["label"] == 2 and row["label"].dtype == np.int32 and row["image"].shape == (32, 32, 3)
    assert data.image(picture).shape == (40, 40, 3) and data.view.side == 40
    for label in (-1, 4):
        with pytest.raises(BadExample, match="label missing"):
            data.train(Record("a", picture, (), "a", label=label), np.random.default_rng(0))


CLASSES = tuple("abcdefg")
COUNT = 53


def classify_images(params, model_state, inputs):
    """Logits by the mean colour."""
    return jnp.mean(inputs["image"].astype(jnp.float32), axis=(1, 2)) @ params


def evaluated(path, *, devices=1, **options):
    """{name: Result} of an evaluator of a known model, and the evaluator."""
    data = labelled.Labelled(CLASSES, Resized(resize=8, crop=8, flip=False))
    functions = {"classify_images": classify_images}
    embedder = Embedder(functions, data, mesh=sharding.make_mesh(devices=devices), batch_size=8)
    section = {"kind": "accuracy", "source": {"name": "manifest", "path": str(path)}} | options
    (evaluator,) = evals.make({"e": section}, embedder, functions=functions, workdir=path.parent)
    params = np.random.default_rng(1).normal(size=(3, len(CLASSES))).astype(np.float32)
    return {result.name: result for result in evaluator.run(params, {})}, evaluator


@pytest.fixture
def pictures(tmp_path):
    """(manifest of pictures of one colour each, the last one broken, their colours, their labels by name)."""
    rng = np.random.default_rng(0)
    colours, labels = rng.integers(0, 256, (COUNT, 3), np.uint8), rng.choice(list(CLASSES[1:]), COUNT)
    rows = []
    for i, colour in enumerate(colours):
        Image.new("RGB", (8, 8), tuple(colour.tolist())).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "texts": [], "label": str(labels[i])})
    (tmp_path / f"{COUNT - 1}.png").write_bytes(b"broken")
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, colours, labels


def test_accuracy_equals_scikit_learn_on_one_and_eight_devices(pictures):
    path, colours, labels = pictures  # of 6 of the 7 classes: the source numbers them otherwise
    weights = np.random.default_rng(1).normal(size=(3, len(CLASSES))).astype(np.float32)
    scores = (colours.astype(np.float32) @ weights)[:-1]
    truth = np.array([CLASSES.index(name) for name in labels])[:-1]
    expected = {f"top{k}": top_k_accuracy_score(truth, scores, k=k, labels=range(len(CLASSES))) for k in (1, 3, 5)} | {
        "mean_per_class": balanced_accuracy_score(truth, np.where(True, scores.argmax(1), 0))
    }
    expected["majority_class"] = np.bincount(truth).max() / len(truth)
    for devices in (1, 8):
        found, evaluator = evaluated(path, devices=devices, at=(5, 1, 3, 7))
        assert list(found) == ["e/top1", "e/top3", "e/top5", "e/mean_per_class", "e/majority_class"]
        for name, value in expected.items():
            assert found[f"e/{name}"].value == pytest.approx(value, abs=1e-9), name
            assert found[f"e/{name}"].n == COUNT - 1
        assert (
            "7 classes, central 8 px of 8 x 8, ties pessimistic, 1 images left out: 52.png" in found["e/top1"].protocol
        )
        outcome = found["e/top1"].outcome
        assert outcome.values.tolist() == (scores.argmax(1) == truth).tolist() and len(outcome.ids) == 16
        (panel,) = evaluator.panels()
        assert set(panel.classes) <= set(CLASSES) and panel.counts.sum() > 0


def test_ties_are_pessimistic():
    assert evals.accuracy.ranks(np.zeros((2, 4)), np.array([0, 3])).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"label": "a"}, {"label": "z"}], {}, "expected classes that the run was trained on, as 'a', found 'z'"),
        ([{}, {}], {}, "expected a source with classes, found none"),
        ([{"label": "a"}, {}], {}, "expected a label for each record, found none for 1 of 2, first '1.png'"),
        ([{"label": "a"}], {"at": (0, 1)}, r"evals\.e\.at: expected numbers of at least 1"),
    ],
)
def test_data_of_other_classes_are_refused(tmp_path, rows, options, message):
    path = tmp_path / "pairs.jsonl"
    rows = [{"image": f"{i}.png", "texts": []} | row for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(AlignError, match=message):
        evaluated(path, **options)


def test_accuracy_of_images_with_texts_is_refused(manifest, tmp_path):
    config = tiny_run.config(manifest)
    config.evals = {"e": {"kind": "accuracy", "source": dict(config.data.source)}}
    parts = runs.prepare(config, tmp_path, sources.make(**config.data.source))
    with pytest.raises(AlignError, match="needs 'classify_images', the task offers"):
        parts.evaluators(config.evals, tmp_path)
