"""VTAB-1k: the tasks as task_adaptation defines them, on files that tfds' own writers make; the sweep,
killed and gone on."""

import io
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from safetensors.numpy import save_file

import align_jax
from align_jax import config as configs
from align_jax import main, optim, paths, tasks, weights
from align_jax.data import classes, images, labelled
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.data.vtab import GROUPS, SPLITS, TASKS
from align_jax.tuning import random_search
from align_jax.tuning.scores import Scores, markdown, summary
from align_jax.types import AlignError
from align_jax.vtab import Preempted, Sweep
from align_jax.watch.non_finite import Diverged
from align_jax.watch.preemption import PREEMPTED
from align_jax.watch.watch import Watch

# tfds asks protobuf for what protobuf 6 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*label\(\) is deprecated:DeprecationWarning")

# Classes of each task, of the benchmark's paper, table 2 of its appendix.
CLASSES = {
    "caltech101": 102, "cifar100": 100, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37, "sun397": 397,
    "svhn_cropped": 10, "patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic_retinopathy": 5,
    "clevr_count_all": 8, "clevr_closest_object_distance": 6, "dmlab": 6, "dsprites_label_x_position": 16,
    "dsprites_label_orientation": 16, "kitti_closest_vehicle_distance": 4, "smallnorb_label_azimuth": 18,
    "smallnorb_label_elevation": 9,
}  # fmt: skip


def png(pixels):
    """The encoded bytes of an array."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def prepare(folder, task, splits) -> Any:
    """The catalogue's own data set, with its features and by its writers, of examples of ours: split -> examples."""
    builder: Any = tfds.builder(TASKS[task].dataset, data_dir=str(folder), file_format="array_record")
    builder._split_generators = lambda manager: {name: enumerate(rows) for name, rows in splits.items()}
    builder.download_and_prepare()
    return builder


def opened(folder, task, split) -> Any:
    return sources.make(name="vtab", task=task, split=split, data_dir=str(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def caltech(folder):
    """2,100 training pictures with their number in the first pixel, red where it is odd; 40 test pictures."""

    def rows(start, count):
        for i in range(start, start + count):
            pixels = np.zeros((8, 8, 3), np.uint8)
            pixels[0, 0] = (*divmod(i, 256), 0)
            pixels[1:] = (255, 0, 0) if i % 2 else (0, 0, 255)
            yield {"image": png(pixels), "image/file_name": f"{i}.png", "label": i % 2}

    prepare(folder, "caltech101", {"train": rows(0, 2100), "test": rows(5000, 40)})
    return folder


def numbers(source):
    """The numbers of its pictures, read from their first pixel."""
    first = [np.asarray(images.decode(source[i].image))[0, 0] for i in range(len(source))]
    return [int(high) * 256 + int(low) for high, low, _ in first]


def test_the_tasks_are_those_of_the_benchmark():
    assert list(CLASSES) == list(TASKS)
    groups = [task.group for task in TASKS.values()]
    assert [groups.count(group) for group in GROUPS] == [7, 4, 8]


def test_a_natural_task(caltech):
    parts = {split: opened(caltech, "caltech101", split) for split in SPLITS}
    assert {split: len(source) for split, source in parts.items()} == dict(
        zip(SPLITS, (800, 200, 1000, 40), strict=True)
    )
    found = {split: numbers(source) for split, source in parts.items()}
    assert found["train800"] + found["val200"] == found["train800val200"]
    assert len(set(found["train800val200"] + found["test"])) == 1040
    builder: Any = tfds.builder("caltech101", data_dir=str(caltech), file_format="array_record")
    names = [row["image/file_name"].decode() for row in builder.as_data_source("train")]
    assert [f"{number}.png" for number in found["train800"]] == names[:800]
    assert [f"{number}.png" for number in found["val200"]] == names[1890:2090]  # 90 % of 2,100
    for index, number in enumerate(found["val200"]):
        record = parts["val200"][index]
        assert isinstance(record.image, bytes) and record.label == number % 2 and record.id == str(index)
        assert record.texts == (parts["val200"].classes[number % 2],)
    assert len(parts["test"].classes) == 102


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_the_classes_of_the_benchmark(folder, task):
    builder: Any = tfds.builder(TASKS[task].dataset, data_dir=str(folder))
    assert builder.version == builder.canonical_version  # tfds prepares no other
    wanted, features = TASKS[task], builder.info.features
    assert isinstance(features["image"], tfds.features.Image)
    if isinstance(wanted.label, str):
        assert not wanted.classes and features[wanted.label].num_classes == CLASSES[task]
    else:
        assert len(set(wanted.classes)) == CLASSES[task]


@pytest.mark.parametrize(
    ("task", "sizes", "val", "test"),  # the published sizes
    [
        ("caltech101", {"train": 3059, "test": 6085}, "train[2753:2953]", "test[0:]"),
        ("svhn_cropped", {"train": 73257, "test": 26032}, "train[65931:66131]", "test[0:]"),
        ("oxford_iiit_pet", {"train": 3680, "test": 3669}, "train[2944:3144]", "test[0:]"),
        ("dtd", {"train": 1880, "validation": 1880, "test": 1880}, "validation[0:200]", "test[0:]"),
        ("eurosat", {"train": 27000}, "train[16200:16400]", "train[21600:]"),
        ("resisc45", {"train": 31500}, "train[18900:19100]", "train[25200:]"),
        ("clevr_count_all", {"train": 70000, "validation": 15000}, "train[63000:63200]", "validation[0:]"),
        ("dsprites_label_orientation", {"train": 737280}, "train[589824:590024]", "train[663552:]"),
        ("smallnorb_label_azimuth", {"train": 24300, "test": 24300}, "test[0:200]", "test[12150:]"),
    ],
)
def test_splits_are_cut_where_the_benchmark_cuts(task, sizes, val, test):
    found = {split: TASKS[task].split(split, sizes) for split in SPLITS}
    assert found == {"train800": "train[:800]", "val200": val, "train800val200": f"train[:800]+{val}", "test": test}


def clevr_objects(depths):
    """Objects at these distances from the camera, at other places on the picture each."""
    return [
        {"3d_coords": [0, 0, 0], "color": 0, "material": 0, "pixel_coords": [3 * i, 200 - i, depth], "rotation": 0.0,
         "shape": 0, "size": 1}
        for i, depth in enumerate(depths)
    ]  # fmt: skip


def test_labels_of_clevr(folder):
    """Derived from the objects; no other label is stored."""
    wanted = {  # distances -> (how many above 3, of the classes up to 8, 8.5, 9, 9.5, 10, and above)
        (8.0, 12.0, 13.0): (0, 0), (8.1, 8.5, 9.0, 30.0): (1, 1), (12.0, 11.0, 9.6, 11.0, 9.5): (2, 3),
        (9.51, 11.0, 12.0): (0, 4), tuple(10.5 + i for i in range(10)): (7, 5),
    }  # fmt: skip
    picture = png(np.zeros((6, 6, 3), np.uint8))
    rows = [
        {"file_name": f"{i}", "image": picture, "objects": clevr_objects(depths), "question_answer": []}
        for i, depths in enumerate(wanted)
    ]
    builder = prepare(folder, "clevr_count_all", {"train": rows, "validation": rows})
    names = [int(row["file_name"]) for row in builder.as_data_source("validation")]
    counts, distances = (opened(folder, task, "test") for task in ("clevr_count_all", "clevr_closest_object_distance"))
    labels = list(wanted.values())
    assert [counts[i].label for i in range(5)] == [labels[name][0] for name in names]
    assert [distances[i].label for i in range(5)] == [labels[name][1] for name in names]
    assert sorted(counts.texts()) == ["10 objects", "3 objects", "3 objects", "4 objects", "5 objects"]
    for split in SPLITS[:3]:
        with pytest.raises(AlignError, match=r"cannot give split 'train\[.*', only train \(5\), validation \(5\)"):
            opened(folder, "clevr_count_all", split)


def test_a_label_outside_the_classes_is_told(folder):
    source = opened(folder, "clevr_count_all", "test")
    source._rows = [{"image": b"", "objects": {"size": [1, 1]}}]
    assert source.about(0).label == -1 and not list(source.texts())
    with pytest.raises(BadExample, match="label outside the classes"):
        source[0]


def kitti_object(kind, metres):
    return {
        "alpha": 0.0, "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0), "dimensions": [1, 1, 1],
        "location": [1, 2, metres], "occluded": 0, "rotation_y": 0.0, "truncated": 0.0, "type": kind,
    }  # fmt: skip


def test_labels_of_kitti(folder):
    """The closest car, van or truck; a pedestrian or a tram may be closer."""
    wanted = [
        ([("Pedestrian", 2.0), ("Car", 8.0), ("Car", 30.0)], 0),
        ([("Truck", 8.01), ("Tram", 3.0)], 1),
        ([("Van", 20.0)], 1),
        ([("Van", 20.5), ("Car", 21.0)], 2),
        ([("Cyclist", 1.0), ("Misc", 4.0)], 3),
        ([("Car", -1.0)], 0),  # beside the camera
    ]
    rows = [
        {"image": png(np.zeros((6, 6, 3), np.uint8)), "image/file_name": f"{i}",
         "objects": [kitti_object(*thing) for thing in things]}
        for i, (things, _) in enumerate(wanted)
    ]  # fmt: skip
    builder = prepare(folder, "kitti_closest_vehicle_distance", {"train": rows, "test": rows})
    names = [int(row["image/file_name"]) for row in builder.as_data_source("test")]
    source = opened(folder, "kitti_closest_vehicle_distance", "test")
    assert [source[i].label for i in range(6)] == [wanted[name][1] for name in names]


def test_labels_and_pixels_of_dsprites(folder):
    """16 groups of neighbours, as floats are divided there; the shape, of ones, is white."""
    rows = [
        {"image": png(np.full((64, 64), value % 2, np.uint8)), "label_orientation": value, "label_scale": 0,
         "label_shape": 0, "label_x_position": value % 32, "label_y_position": 0, "value_orientation": 0.0,
         "value_scale": 0.0, "value_shape": 0.0, "value_x_position": float(value), "value_y_position": 0.0}
        for value in range(40) for _ in range(30)
    ]  # fmt: skip
    builder = prepare(folder, "dsprites_label_orientation", {"train": rows})
    values = [int(row["value_x_position"]) for row in builder.as_data_source("train[1080:]")]  # from 90 %
    orientation, position = (opened(folder, f"dsprites_label_{name}", "test") for name in ("orientation", "x_position"))
    assert len(orientation) == 120 and len(set(values)) > 30
    divided = np.floor_divide(np.array(values, np.float32), np.float32(40 / 16))
    assert [orientation[i].label for i in range(120)] == divided.astype(int).tolist()
    assert [position[i].label for i in range(120)] == [value % 32 // 2 for value in values]
    assert position.classes[:2] == ("0 to 1", "2 to 3") and orientation.classes[:2] == ("0 to 2", "3 to 4")
    for i in range(10):
        assert (np.asarray(images.decode(orientation[i].image)) == 255 * (values[i] % 2)).all()


def test_smallnorb_is_tested_on_the_half_that_it_is_not_tuned_on(folder):
    rows = [
        {"image": png(np.full((96, 96), i % 250, np.uint8)), "image2": png(np.zeros((96, 96), np.uint8)), "instance": 0,
         "label_azimuth": i % 18, "label_category": 0, "label_elevation": i % 9, "label_lighting": 0}
        for i in range(420)
    ]  # fmt: skip
    builder = prepare(folder, "smallnorb_label_azimuth", {"train": rows[:1], "test": rows})
    azimuths = [int(row["label_azimuth"]) for row in builder.as_data_source("test")]
    val, test = (opened(folder, "smallnorb_label_azimuth", split) for split in ("val200", "test"))
    assert [val[i].label for i in range(200)] == azimuths[:200]
    assert [test[i].label for i in range(210)] == azimuths[210:]
    elevation = opened(folder, "smallnorb_label_elevation", "test")
    assert [elevation[i].label for i in range(210)] == [azimuth % 9 for azimuth in azimuths[210:]]
    assert images.decode(test[0].image).mode == "RGB"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "caltech", "split": "test"}, "VTAB has no task 'caltech'; did you mean 'caltech101'"),
        ({"task": "dtd", "split": "val"}, r"expected one of \('train800', .*'test'\), found 'val'"),
        ({"task": "dtd", "split": "test"},
         r"dtd:3.*is not prepared in .*; run: tfds build dtd:3\.\d\.\d --file_format=array_record --data_dir="),
    ],
    ids=str,
)  # fmt: skip
def test_errors_say_what_to_do(folder, options, message):
    with pytest.raises(AlignError, match=message) as error:
        sources.make(name="vtab", data_dir=str(folder), **options)
    assert "\n" not in str(error.value)


def test_a_version_that_tfds_does_not_have(folder):
    with pytest.raises(AlignError, match=r"has no 'dtd:1\.\*\.\*'; take a version that it has"):
        sources.make(name="tfds", dataset="dtd:1.*.*", split="test", texts=None, label="label", data_dir=str(folder))


def test_a_draw_is_the_same_whenever_it_is_drawn():
    search = (
        {"keys": ("optim.learning_rate",), "low": 1e-3, "high": 1e-1},
        {"keys": ("data.crop", "data.flip"), "values": ((224, True), (289, False))},
        {"keys": ("optim.groups",), "values": ((), (("image_tower", 0.1),))},
    )
    drawn = [random_search.draw(search, seed=0, name="dtd", number=i) for i in range(200)]
    assert drawn[7] == random_search.draw(search, seed=0, name="dtd", number=7)
    assert drawn[7] != random_search.draw(search, seed=1, name="dtd", number=7)
    assert drawn[7] != random_search.draw(search, seed=0, name="sun397", number=7)
    rates = [one["optim.learning_rate"] for one in drawn]
    assert min(rates) >= 1e-3 and max(rates) <= 1e-1 and abs(np.median(np.log10(rates)) + 2) < 0.2
    assert all(rate == float(f"{rate:.3g}") for rate in rates)
    assert {(one["data.crop"], one["data.flip"]) for one in drawn} == {(224, True), (289, False)}
    assert {one["optim.groups"] for one in drawn} == {(), (("image_tower", 0.1),)}


@pytest.mark.parametrize(
    "entry",
    [
        {"values": (1, 2)}, {"keys": ("steps",), "values": ()}, {"keys": ("steps",), "low": 0.0, "high": 1.0},
        {"keys": ("steps",), "low": 2.0, "high": 1.0}, {"keys": ("a", "b"), "low": 1.0, "high": 2.0},
        {"keys": ("a", "b"), "values": ((1, 2), (1,))}, {"keys": ("steps",), "values": (1,), "low": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(entry):
    with pytest.raises(AlignError, match=r"config\.search\[1\]: expected keys and values"):
        random_search.check(({"keys": ("steps",), "values": (1,)}, entry), where="config.search")


def test_groups_weigh_by_their_tasks():
    """The three groups of ALIGN's Table 6 give its mean over all."""
    scores = {"natural": 0.8338, "specialized": 0.8756, "structured": 0.7325}
    found = [
        Scores(name, [scores[task.group] - 0.01, scores[task.group], scores[task.group] + 0.01], 9, "d", [0.5], 0, {})
        for name, task in TASKS.items()
    ]
    result = summary(found)
    assert round(100 * result["all"]["mean"], 2) == 79.99 and result["all"]["n_tasks"] == 19
    assert {group: round(row["mean"], 4) for group, row in result["groups"].items()} == scores
    assert np.isclose(result["all"]["std"], 0.01) and np.isclose(result["tasks"]["dtd"]["std"], 0.01)
    page = markdown(result | {"checkpoint": "runs/x", "weights": "ab", "protocol": "p"})
    assert "| all | 19 | 79.99 | 1.00 |" in page and "of the 19 tasks" not in page
    one = summary([Scores("dtd", [0.5], 9, "d", [-1.0, 0.25], 1, {"steps": 3})])
    assert one["all"]["std"] is None and one["tasks"]["dtd"]["diverged"] == 1 and list(one["groups"]) == ["natural"]


def test_the_config_is_whole(tmp_path):
    """Each value that a trial may take makes a task, an optimizer and a view that can be."""
    classes.save(tuple(map(str, range(102))), tmp_path / classes.FILE)
    config = sweep_config("")
    tower = {"variant": "b7", "bn_group_size": 16}
    search = config.search
    del config.search
    for entry in search:
        for value in entry.get("values", (entry.get("low"), entry.get("high"))):
            values = zip(entry["keys"], value if len(entry["keys"]) > 1 else (value,), strict=True)
            trial = configs.override(config, dict(values), where="config.search")
            trial.task.image, trial.data.classes = tower, 102
            configs.check(trial)
            tasks.make(trial)
            configs.call(optim.make, trial.optim, where="optim", steps=trial.steps, freeze=())
            data = {key: trial.data[key] for key in ("augment", "resize", "crop", "eval_crop", "flip")}
            assert labelled.make(source=None, folder=tmp_path, classes=102, **data).view.side == trial.data.eval_crop


def sweep_config(data_dir, **values):
    """configs/vtab.py, small."""
    path = Path(__file__).parent.parent / "configs" / "vtab.py"
    config = runpy.run_path(str(path))["get_config"]()
    config.data.source.data_dir = str(data_dir)
    config.update(values)
    return config


def small_config(data_dir, *search):
    """Trials of 4 steps at 32 pixels, for the tower of tests/shapes_run.py."""
    config = sweep_config(data_dir, steps=4, batch_size=16, mesh={"fsdp": 1, "devices": 1}, log_every=2, search=search)
    config.data.update({"crop": 32, "eval_crop": 32, "threads": 2, "prefetch": 2})
    config.optim.warmup = 0
    config.task.dtype = "float32"
    return config


RATES = {"keys": ("optim.learning_rate",), "low": 1e-3, "high": 1e-1}


class Trainer:
    """In place of a training: eval.json as one leaves it, with a score that is `score(config)`."""

    def __init__(self, score):
        self.score, self.seen = score, []

    def __call__(self, config, folder):
        self.seen.append((folder, config))
        value = self.score(config)
        if value == PREEMPTED:
            return PREEMPTED
        (folder / "checkpoints" / "4").mkdir(parents=True)
        (folder / "eval.json").write_text(json.dumps([{"name": "vtab/top1", "value": value}]))
        return 0


def swept(checkpoint, data_dir, workdir, train, *, trials=3, runs=2, config=None, names=("caltech101",)):
    return Sweep(
        config or small_config(data_dir, RATES), workdir, checkpoint=str(checkpoint), tasks=names,
        trials=trials, runs=runs, train=train,
    )  # fmt: skip


def test_the_best_of_val200_is_taken_and_trials_never_see_test(finished_run, caltech, tmp_path):
    """The test split would have taken another trial; of equals the first is taken."""
    rates = [random_search.draw((RATES,), seed=0, name="caltech101", number=i) for i in range(4)]
    on_val = dict(zip([one["optim.learning_rate"] for one in rates], (0.2, 0.7, 0.7, 0.3), strict=True))
    train = Trainer(
        lambda config: (
            on_val[config.optim.learning_rate]
            if config.evals.vtab.source.split == "val200"
            else 0.5 + 0.1 * config.seed
        )
    )
    page = swept(finished_run / "export", caltech, tmp_path / "sweep", train, trials=4).run()
    found = [(c.data.source.split, c.evals.vtab.source.split, c.seed) for _, c in train.seen]
    assert found == 4 * [("train800", "val200", 0)] + [("train800val200", "test", seed) for seed in (0, 1)]
    assert {config.optim.learning_rate for _, config in train.seen[4:]} == {rates[1]["optim.learning_rate"]}
    result = json.loads((tmp_path / "sweep" / "vtab.json").read_text())
    row = result["tasks"]["caltech101"]
    assert (row["best_trial"], row["val"], row["runs"], row["examples"]) == (1, 0.7, [0.5, 0.6], 40)
    assert row["settings"] == rates[1] and np.isclose(row["std"], np.std([0.5, 0.6], ddof=1))
    assert result["weights"] == digest_of(finished_run) and "val200" in result["protocol"]
    assert page == (tmp_path / "sweep" / "vtab.md").read_text() and "1 of the 19 tasks" in page
    assert not list((tmp_path / "sweep").glob("**/checkpoints"))
    first = train.seen[0][1]
    assert first.init.checkpoints[0]["checkpoint"] == str(finished_run / "export") and first.data.classes == 102
    assert first.task.image.stages == [[1, 3, 1, 16], [1, 3, 6, 80]]


def digest_of(run):
    model = align_jax.load(run / "export")
    return weights.digest(model.params, model.model_state)


def test_a_stopped_sweep_goes_on_with_what_is_not_done(finished_run, caltech, tmp_path, capsys):
    def never(config):
        raise KeyboardInterrupt

    class Stops(Trainer):
        def __call__(self, config, folder):
            if len(self.seen) == 2:
                never(config)
            return super().__call__(config, folder)

    begun, rest = Stops(lambda config: 0.5), Trainer(lambda config: 0.5)
    with pytest.raises(KeyboardInterrupt):
        swept(finished_run / "export", caltech, tmp_path, begun).run()
    page = swept(finished_run / "export", caltech, tmp_path, rest).run()
    names = [folder.name for folder, _ in (*begun.seen, *rest.seen)]
    assert names == ["000", "001", "002", "trial_000_seed_0", "trial_000_seed_1"]
    told = capsys.readouterr().err
    assert "caltech101: trial 1 of 3, val200: 50.00 %; best 50.00 % (trial 0)" in told
    assert "0:00 left for 2 trainings" in told
    assert swept(finished_run / "export", caltech, tmp_path, Trainer(never)).run() == page
    more = Trainer(lambda config: 0.9)
    swept(finished_run / "export", caltech, tmp_path, more, trials=4).run()
    assert [folder.name for folder, _ in more.seen] == ["003", "trial_003_seed_0", "trial_003_seed_1"]
    config = small_config(caltech, RATES | {"high": 1.0})
    with pytest.raises(AlignError, match=r"holds a run with config\.search"):
        swept(finished_run / "export", caltech, tmp_path, Trainer(never), config=config)
    with pytest.raises(Preempted):
        swept(finished_run / "export", caltech, tmp_path, Trainer(lambda config: PREEMPTED), trials=5).run()


def test_trials_that_diverge_lose(finished_run, caltech, tmp_path, capsys):
    def score(config):
        if config.evals.vtab.source.split == "val200" and config.optim.learning_rate > limit:
            raise Diverged("steps 2 to 4 were not finite")
        return 0.25

    rates = [random_search.draw((RATES,), seed=0, name="caltech101", number=i) for i in range(3)]
    limit = min(one["optim.learning_rate"] for one in rates)
    swept(finished_run / "export", caltech, tmp_path / "one", Trainer(score)).run()
    row = json.loads((tmp_path / "one" / "vtab.json").read_text())["tasks"]["caltech101"]
    assert row["diverged"] == 2 and row["settings"] == {"optim.learning_rate": limit}
    assert "val200: diverged; best 25.00 %" in capsys.readouterr().err
    assert sorted(path.parent.name for path in tmp_path.glob("one/**/diverged.json")) == ["000", "002"]
    limit = 0.0
    with pytest.raises(AlignError, match="all 3 trials diverged; lower the learning rates"):
        swept(finished_run / "export", caltech, tmp_path / "none", Trainer(score)).run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("caltech",)}, "--tasks: VTAB has no task 'caltech'; did you mean 'caltech101'"),
        ({"names": ()}, r"--tasks: expected some of \['caltech101', .*found none"),
        ({"names": ("caltech101", "dtd")}, "dtd.* is not prepared in .*; run: tfds build dtd"),
        ({"runs": 0}, "expected --trials and --runs of at least 1, found 3 and 0"),
    ],
    ids=str,
)
def test_a_sweep_that_cannot_be_is_refused_before_it_trains(finished_run, caltech, tmp_path, options, message):
    with pytest.raises(AlignError, match=message):
        swept(finished_run / "export", caltech, tmp_path, Trainer(lambda config: 1 / 0), **options)
    assert not list(tmp_path.iterdir())


def test_a_config_of_a_sweep_is_checked(finished_run, caltech, tmp_path):
    unknown = small_config(caltech, {"keys": ("optim.rate",), "values": (1.0,)})
    with pytest.raises(AlignError, match=r"config\.search: unknown key 'optim\.rate'"):
        swept(finished_run / "export", caltech, tmp_path, Trainer(lambda config: 1 / 0), config=unknown)
    none = small_config(caltech)
    del none.search
    with pytest.raises(AlignError, match="expected a section search"):
        swept(finished_run / "export", caltech, tmp_path, Trainer(lambda config: 1 / 0), config=none)


@pytest.fixture
def small_export(finished_run, tmp_path):
    """The export of a run, with weights drawn anew for a tower of one block: quick to compile."""
    folder = shutil.copytree(finished_run / "export", tmp_path / "export")
    config = configs.load(folder / "config.json")
    config.task.image.update({"stages": [[1, 3, 1, 16]], "strides": [2]})
    (folder / "config.json").write_text(json.dumps(configs.plain(config)))
    task, rng = tasks.make(config), np.random.default_rng(0)
    params, state = jax.eval_shape(lambda: task.init(jax.random.key(0), task.dummy_batch(1)))
    shapes = paths.flatten({"params": params, "model_state": state})
    arrays = {name: rng.uniform(0.01, 0.2, x.shape).astype(x.dtype) for name, x in shapes.items()}
    save_file(arrays, folder / "model.safetensors")
    return folder


def test_a_sweep_killed_in_the_middle_of_a_training(small_export, caltech, tmp_path, monkeypatch):
    """Real trainings: two trials, two runs; the second trial ends at its second step, and goes on from there."""
    workdir = tmp_path / "sweep"
    views = {"keys": ("data.augment", "data.resize"), "values": (("inception", None), ("align", 36))}
    config = small_config(caltech, views)
    config.checkpoint.every = 1

    def dies(_, step):
        if step == 2:
            raise KeyboardInterrupt
        return False

    def train(config, folder):
        with monkeypatch.context() as patch:
            if folder.name == "001" and not folder.exists():
                patch.setattr(Watch, "stop", dies)
            return main.run(config, folder)

    with pytest.raises(KeyboardInterrupt):
        swept(small_export, caltech, workdir, train, trials=2, config=config).run()
    trials, runs = workdir / "caltech101" / "trials", workdir / "caltech101" / "runs"
    assert (trials / "000" / "eval.json").exists() and not (trials / "001" / "eval.json").exists()
    swept(small_export, caltech, workdir, train, trials=2, config=config).run()
    starts = {path.name: starts_of(path) for path in (*trials.iterdir(), *runs.iterdir())}
    row = json.loads((workdir / "vtab.json").read_text())["tasks"]["caltech101"]
    names = [f"trial_{row['best_trial']:03}_seed_{seed}" for seed in (0, 1)]
    assert starts == {"000": [0], "001": [0, 1], names[0]: [0], names[1]: [0]}
    val = [top1(trials / name) for name in ("000", "001")]
    assert row["best_trial"] == val.index(max(val)) and row["val"] == max(val)
    assert row["runs"] == [top1(runs / name) for name in names]
    assert {parts_of(path) for path in trials.iterdir()} == {("train[:800]", "val200")}
    assert {parts_of(path) for path in runs.iterdir()} == {("train[:800]+train[1890:2090]", "test")}
    assert not list(workdir.glob("**/checkpoints"))


def starts_of(run):
    """The steps from which a run was started."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event["from_step"] for event in events if event["event"] == "start"]


def top1(run):
    return next(row["value"] for row in json.loads((run / "eval.json").read_text()) if row["name"] == "vtab/top1")


def parts_of(run):
    """(what a run was trained on, in tfds' words, the split that it was scored on)."""
    (file,) = json.loads((run / "run.json").read_text())["data"]["files"]
    config = json.loads((run / "config.json").read_text())
    return file["name"].split()[-1], config["evals"]["vtab"]["source"]["split"]
