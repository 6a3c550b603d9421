"""The 19 tasks of VTAB-1k (Zhai et al. 2019, arXiv 1910.04867), read from prepared TensorFlow Datasets data sets.

Every fact of `TASKS` is that of the benchmark's own code, google-research/task_adaptation at d7630d3, one file a data
set in task_adaptation/data/, as scripts/run_all_tasks.sh names them: the data set and its version, where train800,
val200 and test are cut, and how labels are derived. Two versions differ, since today's tfds cannot prepare those that
it reads: of oxford_iiit_pet 3 tfds has 4 left, with corrupt pictures mended, and of kitti 3.1 it has 3.3.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align_jax.config import nearest
from align_jax.data import images, tfds
from align_jax.data.source import BadExample, File, Record, Source
from align_jax.types import AlignError

GROUPS = ("natural", "specialized", "structured")
SPLITS = ("train800", "val200", "train800val200", "test")
CLEVR_DEPTHS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)  # clevr.py
KITTI_METRES = (-100.0, 8.0, 20.0, 999.0)  # kitti.py
NO_VEHICLE = 1000.0  # the distance that kitti.py gives a picture without a vehicle
VEHICLES = 3  # the types of kitti below it: car, van, truck

Row = Mapping[str, Any]  # one example as tfds gives it


def grouped(name: str, size: int, groups: int, row: Row) -> int:
    """The stored label, of `size` values, in `groups` of neighbours: dsprites.py."""
    return int(row[name]) * groups // size


def count_objects(row: Row) -> int:
    """How many objects there are above 3, the fewest of a picture: clevr.py."""
    return len(row["objects"]["size"]) - 3


def closest_object(row: Row) -> int:
    """Which of `CLEVR_DEPTHS` the closest object is beyond: clevr.py."""
    return _last_below(CLEVR_DEPTHS, min(place[2] for place in row["objects"]["pixel_coords"]))


def closest_vehicle(row: Row) -> int:
    """Which of `KITTI_METRES` the closest car, van or truck is beyond, along the axis of the camera: kitti.py."""
    objects = row["objects"]
    vehicles = [place[2] for kind, place in zip(objects["type"], objects["location"], strict=True) if kind < VEHICLES]
    return _last_below(KITTI_METRES, min([*vehicles, NO_VEHICLE]))


def _last_below(bounds: tuple[float, ...], value: float) -> int:
    """The index of the last of the rising `bounds` that is less than `value`, -1 for none."""
    return int(np.searchsorted(bounds, value, side="left")) - 1


@dataclasses.dataclass(frozen=True)
class VtabTask:
    """One task: `train800` is the first 800 of split "train", the other two are as follows."""

    group: str
    dataset: str  # name[/config]:version
    val: tuple[str, int] = ("validation", 0)  # val200: the 200 of that split after that many percent of it
    test: tuple[str, int] = ("test", 0)  # test: all of that split after that many percent
    label: str | Callable[[Row], int] = "label"  # the ClassLabel feature, or how it is derived
    classes: tuple[str, ...] = ()  # of a derived label
    scale: int = 1  # what the stored pixels are multiplied by

    def split(self, name: str, sizes: Mapping[str, int]) -> str:
        """Split `name` in tfds' words; `sizes` are those of the splits that are stored."""
        train = "train[:800]"
        start = sizes.get(self.val[0], 0) * self.val[1] // 100
        val = f"{self.val[0]}[{start}:{start + 200}]"
        test = f"{self.test[0]}[{sizes.get(self.test[0], 0) * self.test[1] // 100}:]"
        return {"train800": train, "val200": val, "train800val200": f"{train}+{val}", "test": test}[name]


def _dsprites(label: str, size: int) -> VtabTask:
    """By 16 groups of neighbours of a label of `size` values; the pixels that are stored are 0 and 1."""
    groups = [[value for value in range(size) if value * 16 // size == group] for group in range(16)]
    return VtabTask(
        "structured", "dsprites:2.*.*", ("train", 80), ("train", 90), partial(grouped, label, size, 16),
        tuple(f"{group[0]} to {group[-1]}" for group in groups), 255,
    )  # fmt: skip


def _smallnorb(label: str) -> VtabTask:
    return VtabTask("structured", "smallnorb:2.*.*", ("test", 0), ("test", 50), label)


def _clevr(label: Callable[[Row], int], classes: tuple[str, ...]) -> VtabTask:
    return VtabTask("structured", "clevr:3.*.*", ("train", 90), ("validation", 0), label, classes)


TASKS = {
    "caltech101": VtabTask("natural", "caltech101:3.*.*", ("train", 90)),
    "cifar100": VtabTask("natural", "cifar100:3.*.*", ("train", 90)),
    "dtd": VtabTask("natural", "dtd:3.*.*"),
    "oxford_flowers102": VtabTask("natural", "oxford_flowers102:2.*.*"),
    "oxford_iiit_pet": VtabTask("natural", "oxford_iiit_pet:4.*.*", ("train", 80)),
    "sun397": VtabTask("natural", "sun397/tfds:4.*.*"),
    "svhn_cropped": VtabTask("natural", "svhn_cropped:3.*.*", ("train", 90)),
    "patch_camelyon": VtabTask("specialized", "patch_camelyon:2.*.*"),
    "eurosat": VtabTask("specialized", "eurosat/rgb:2.*.*", ("train", 60), ("train", 80)),
    "resisc45": VtabTask("specialized", "resisc45:3.*.*", ("train", 60), ("train", 80)),
    "diabetic_retinopathy": VtabTask("specialized", "diabetic_retinopathy_detection/btgraham-300:3.*.*"),
    "clevr_count_all": _clevr(count_objects, tuple(f"{count} objects" for count in range(3, 11))),
    "clevr_closest_object_distance": _clevr(
        closest_object, ("up to 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "above 10")
    ),
    "dmlab": VtabTask("structured", "dmlab:2.0.1"),
    "dsprites_label_x_position": _dsprites("label_x_position", 32),
    "dsprites_label_orientation": _dsprites("label_orientation", 40),
    "kitti_closest_vehicle_distance": VtabTask(
        "structured",
        "kitti:3.*.*",
        label=closest_vehicle,
        classes=("up to 8 m", "8 to 20 m", "above 20 m", "no vehicle"),
    ),
    "smallnorb_label_azimuth": _smallnorb("label_azimuth"),
    "smallnorb_label_elevation": _smallnorb("label_elevation"),
}


class Vtab(Source):
    """Random access to one split of one task; the text of a record is the name of its class.

    Args:
      task: of `TASKS`. split: "train800", "val200", "train800val200" or "test". data_dir: None for tfds' default.
    """

    def __init__(self, *, task: str, split: str, data_dir: str | None = None):
        if task not in TASKS:
            raise AlignError(f"data.source.task: VTAB has no task {task!r}; {nearest(task, list(TASKS))}")
        if split not in SPLITS:
            raise AlignError(f"data.source.split: expected one of {SPLITS}, found {split!r}")
        self._task = TASKS[task]
        builder = tfds.prepared(self._task.dataset, data_dir)
        stored = {name: int(info.num_examples) for name, info in builder.info.splits.items()}
        wanted = self._task.split(split, stored)
        self._rows = tfds.rows(builder, wanted, "image")
        label = self._task.label
        self.classes = tuple(builder.info.features[label].names) if isinstance(label, str) else self._task.classes
        self._file = tfds.file_of(builder, wanted, len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        """Images as their encoded bytes, but uint8 [H, W, 3] where the benchmark scales the pixels."""
        row = self._rows[index]
        record = self._record(index, row)
        if record.label < 0:
            raise BadExample("label outside the classes")
        image = row["image"]
        if self._task.scale != 1:
            image = np.asarray(images.decode(image)) * np.uint8(self._task.scale)
        return dataclasses.replace(record, image=image)

    def about(self, index: int) -> Record:
        """All of a record but its image; label -1 where it is outside the classes."""
        return self._record(index, self._rows[index])

    def ids(self) -> pa.ChunkedArray:
        """Indices into the split."""
        return pc.cast(pa.chunked_array([np.arange(len(self))]), pa.string())

    def files(self) -> list[File]:
        """The data set, by name and version, and the part of it."""
        return [self._file]

    def texts(self) -> Iterator[str]:
        """Names of classes, in order."""
        return (text for index in range(len(self)) for text in self.about(index).texts)

    def _record(self, index: int, row: Row) -> Record:
        label = int(row[self._task.label]) if isinstance(self._task.label, str) else self._task.label(row)
        if not 0 <= label < len(self.classes):
            label = -1
        texts = (self.classes[label],) if label >= 0 else ()
        return Record(id=str(index), image=b"", texts=texts, group=str(index), label=label)
