"""Makes region features of images: from files that other programs wrote, by a detector, or by a model on given boxes.

Converted, from bottom-up attention's tab-separated values and other formats, as they are, once:

python -m align_jax.regions --read=tsv --path=trainval_36.tsv --out=regions

Boxes, classes and features by a detector of transformers (DETR, Conditional and Deformable DETR, RT-DETR, D-FINE) in a
local folder, which needs PyTorch. It stands in for the papers' Faster R-CNN with 1600 classes of Visual Genome:

python -m align_jax.regions --detector=detr-resnet-50 --data=pairs.jsonl --out=regions

Features of boxes that the data know, or that a detector finds, by the image tower of a trained run or an export:

python -m align_jax.regions --boxes=source --model=runs/demo --data=name=emoji_scenes,split=train --out=regions
python -m align_jax.regions --boxes=detector --detector=detr-resnet-50 --model=runs/demo --data=pictures --out=regions

Start the same command again after a kill and it goes on with the next 1,000 images. A run then reads the folder with
config.data.regions.path; an image's regions are found by its key: --key says what that is made of here,
config.data.regions.key what of a record there, and both must give the same.

--read: tsv (bottom-up attention, LXMERT), npz (UNITER, OpenVQA), lmdb (UNITER), hdf5 (VQA, Visual Dialog, groups),
parquet; the layouts are described in align_jax/region_files/.
--path: files, patterns with braces or wildcards, folders; several with commas.
--key: id: the id of the image as it stands; stem: its file name without folder and ending; number: the last digits of
that, as 391895 of COCO_val2014_000000391895.jpg.

What becomes of bad input, each counted and told in the end, the images in OUT/refused.parquet:
- A box that reaches over the edge is cut to the image. One that is not finite or has no area inside it is left out.
- An image is refused whose features are not finite, of another width or too large for --dtype, that has a label outside
  the classes, an array that is missing or does not fit the others, a key seen before, or no region left.
- Of more than --most regions the surest are kept; where scores are not stored, the first.
"""

from pathlib import Path
from typing import Any

from absl import flags

from align_jax.adapters.detector import Detector
from align_jax.cli import main_of
from align_jax.data import source as sources
from align_jax.data.options import source_options
from align_jax.data.region_store import DTYPES, RULES
from align_jax.data.source import Source
from align_jax.embeddings.layout import data_digest
from align_jax.region_files import converting, fields, finding
from align_jax.region_files.writing import Images, summary, write
from align_jax.types import AlignError
from align_jax.weights import digest

BOXES = ("source", "detector")
# Flag -> where it counts; elsewhere it would be taken and do nothing.
ONLY = {
    "path": "--read", "ids": "--read", "box_units": "--read", "classes": "--read", "width": "--read",
    "min_score": "--detector", "least": "--detector", "device": "--detector", "model": "--boxes", "margin": "--boxes",
    "whole": "--boxes", "data": "--detector or --boxes", "batch_size": "--detector or --boxes",
}  # fmt: skip


def main(_: list[str]) -> None:
    """Checks the flags."""
    values = flags.FLAGS
    _check(values)
    out = Path(values.out)
    images = converted(values) if values.read else found(values)
    print(summary(write(images, out, force=values.force), out))


def _check(values: flags.FlagValues) -> None:
    if bool(values.read) == bool(values.detector or values.boxes):
        raise AlignError("regions: expected one of --read, --detector and --boxes; see --help")
    wanted = {"path": "--read"} if values.read else {"data": "--detector and --boxes"}
    wanted |= {"model": "--boxes"} if values.boxes else {}
    wanted |= {"detector": "--boxes=detector"} if values.boxes == "detector" else {}
    for flag, where in wanted.items():
        if not values[flag].value:
            raise AlignError(f"--{flag}: expected with {where}, found none")
    if values.boxes == "source" and values.detector:
        raise AlignError("--detector: expected with --boxes=detector or alone, found --boxes=source")
    if values.boxes == "source" and values.probabilities:
        raise AlignError("--probabilities: expected with what finds classes, found --boxes=source")
    chosen = {
        "--read": values.read, "--detector": values.detector, "--boxes": values.boxes,
        "--detector or --boxes": not values.read,
    }  # fmt: skip
    for flag, where in ONLY.items():
        if values[flag].present and not chosen[where]:
            raise AlignError(f"--{flag}: expected with {where}, found without")


def converted(values: Any) -> Images:
    """What the flags say to convert."""
    path = [part for part in values.path.split(",") if part]
    reader = converting.open_reader(values.read, path, ids=values.ids)
    origin = {"format": values.read, "path": path, "files": reader.digest, "ids": values.ids}
    return converting.Converted(
        reader, classes=_classes(values.classes), width=values.width, most=values.most, dtype=values.dtype,
        probabilities=values.probabilities, units=values.box_units, key=values.key, origin=origin,
    )  # fmt: skip


def found(values: Any) -> Images:
    """What the flags say to find in pictures."""
    options = source_options(values.data)
    source = sources.make(**options)
    origin: dict[str, Any] = {"data": options, "data_digest": data_digest(source, options)}
    detector = None
    if values.detector:
        detector = Detector(
            Path(values.detector), most=values.most, least=values.least, min_score=values.min_score,
            probabilities=values.probabilities, device=values.device,
        )  # fmt: skip
        origin |= detector.facts
    classes = detector.classes if detector else _object_classes(source)
    find: finding.Finder = finding.by_detector(detector) if detector else finding.objects_of
    width = detector.width if detector else 0
    if values.boxes:
        from align_jax.loading import load  # seconds, and only this mode needs it

        model = load(values.model)
        find = finding.Crops(model, find, margin=values.margin, whole=values.whole)
        width = find.width
        origin |= {
            "model": Path(values.model).name, "weights_of_model": digest(model.params, model.model_state),
            "features": f"{finding.FUNCTION} of each box", "margin": values.margin, "whole": values.whole,
        }  # fmt: skip
    return finding.Found(
        source, find, width=width, classes=classes, most=values.most, dtype=values.dtype,
        probabilities=values.probabilities, key=values.key, batch_size=values.batch_size, origin=origin,
    )  # fmt: skip


def _object_classes(source: Source) -> tuple[str, ...]:
    if not source.object_classes:
        raise AlignError("--boxes=source: expected data that know their objects, found none; give --boxes=detector")
    return source.object_classes


def _classes(given: str | None) -> tuple[str, ...] | int | None:
    """Names of a file, a line each, or how many there are."""
    if given is None:
        return None
    if given.isdigit():
        return int(given)
    try:
        return tuple(line.strip() for line in Path(given).read_text("utf-8").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise AlignError(f"--classes: expected a number or a text file, found {given}: {error}") from error


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "folder of the regions", required=True)
    flags.DEFINE_enum("read", None, list(converting.FORMATS), "the format of files to convert")
    flags.DEFINE_string("path", None, "the files to convert")
    flags.DEFINE_string("ids", "", "of HDF5 without ids: a .pkl, .json or .txt file")
    flags.DEFINE_enum("box_units", "auto", fields.UNITS, "of boxes in files; auto: shares where none reaches 2")
    flags.DEFINE_string("classes", None, "a file of class names, or their number, where files hold labels alone")
    flags.DEFINE_integer("width", None, "of the features; by default that of the first image", 1)
    flags.DEFINE_string("detector", None, "folder of a detector of transformers")
    flags.DEFINE_float("min_score", 0.2, "confidence of the detector's regions that are kept", 0)
    flags.DEFINE_integer("least", 10, "regions that the detector gives of an image, however unsure", 0)
    flags.DEFINE_string("device", None, "of PyTorch; by default cuda where there is one")
    flags.DEFINE_enum("boxes", None, BOXES, "what finds the boxes of which --model makes features")
    flags.DEFINE_string("model", None, "a work directory, one of its checkpoints, or an export")
    flags.DEFINE_float("margin", 0.0, "share of a box that is added on each side before it is cut out", 0)
    flags.DEFINE_bool("whole", False, "the whole picture as one more region")
    flags.DEFINE_string("data", None, "a manifest, a folder of pictures, or a source's options")
    flags.DEFINE_integer("batch_size", 8, "pictures at a time", 1)
    flags.DEFINE_enum("key", "id", list(RULES), "what an image is known by")
    flags.DEFINE_integer("most", 100, "regions of an image", 1)
    flags.DEFINE_enum("dtype", "float16", DTYPES, "of features and probabilities on disk")
    flags.DEFINE_bool("probabilities", False, "keep the probabilities of all classes")
    flags.DEFINE_bool("force", False, "replace regions that the folder holds")
    main_of(main)
