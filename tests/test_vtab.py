"""VTAB-1k: the tasks as task_adaptation defines them, on files that tfds' own writers make; the sweep,
killed and gone on."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_jax.data import images
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.data.vtab import GROUPS, SPLITS, TASKS
from align_jax.types import AlignError

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


def prepare(folder, task, splits):
    """The catalogue's own data set, with its features and by its writers, of examples of ours: split -> examples."""
    builder = tfds.builder(TASKS[task].dataset, data_dir=str(folder), file_format="array_record")
    builder._split_generators = lambda manager: {name: enumerate(rows) for name, rows in splits.items()}
    builder.download_and_prepare()
    return builder


def opened(folder, task, split):
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
    builder = tfds.builder("caltech101", data_dir=str(caltech), file_format="array_record")
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
    builder = tfds.builder(TASKS[task].dataset, data_dir=str(folder))
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
    return {"alpha": 0.0, "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0), "dimensions": [1, 1, 1], "location": [1, 2, metres],
            "occluded": 0, "rotation_y": 0.0, "truncated": 0.0, "type": kind}  # fmt: skip


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
