"""Visual Genome: regions, objects and their attributes."""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from align_jax.datasets import layout
from align_jax.datasets.builder import Builder, Example, Shard, in_shards, pair_features
from align_jax.types import AlignError

IMAGE = ("image_id", "url", "width", "height", "coco_id", "flickr_id")
REGION = ("region_id", "phrase", "x", "y", "width", "height")
OBJECT = ("object_id", "names", "synsets", "x", "y", "w", "h")
WORDS = {"objects": ("names", "synsets"), "attributed": ("names", "synsets", "attributes")}


class VisualGenome(Builder):
    """Visual Genome (Krishna et al. 2017): 108,077 images with described regions, and objects with their attributes.

    Download images.zip, images2.zip and the four JSON files (image meta data, region descriptions 1.2, objects 1.4,
    attributes 1.2), and unpack them:

      SOURCE/image_data.json
      SOURCE/region_descriptions.json
      SOURCE/objects.json
      SOURCE/attributes.json
      SOURCE/VG_100K/2.jpg ..
      SOURCE/VG_100K_2/1.jpg ..

    One split, train. About half of the images are COCO's, also of its val and test: coco_id tells which. id is
    `image_id`. Boxes are int32 [n, 4] x, y, width, height in pixels, as drawn: some reach out of the image.

      width, height                        of the image, in pixels, as image_data.json says
      coco_id, flickr_id                   int64; -1 where there is none
      captions, regions/id, regions/box    phrase, id and box of each region
      objects/id, objects/box              of each object of objects.json
      objects/names, objects/names_of      all names, and of which object (a row of objects/id) each is
      objects/synsets, objects/synsets_of  likewise
      attributed/..                        the objects of attributes.json, in the same form: their ids are not always
                                           those of objects.json, whose version 1.4 has merged some
      attributed/attributes, attributed/attributes_of

    An image that objects.json or attributes.json lacks has none.
    """

    HOMEPAGE = "https://homes.cs.washington.edu/~ranjay/visualgenome/"
    NEEDS = (
        "image_data.json", "region_descriptions.json", "objects.json", "attributes.json", "VG_100K/", "VG_100K_2/"
    )  # fmt: skip

    def features(self) -> dict[str, Any]:
        number, text = np.int64, tfds.features.Text()
        boxes = tfds.features.Tensor(shape=(None, 4), dtype=np.int32)
        features = pair_features() | dict.fromkeys(("width", "height", "coco_id", "flickr_id"), number)
        for name in ("regions", *WORDS):
            features |= {f"{name}/id": tfds.features.Sequence(number), f"{name}/box": boxes}
        for name, of in ((name, of) for name, kinds in WORDS.items() for of in kinds):
            features |= {
                f"{name}/{of}": tfds.features.Sequence(text),
                f"{name}/{of}_of": tfds.features.Sequence(number),
            }
        return features

    def shards(self, source: Path) -> dict[str, list[Shard]]:
        file = source / "image_data.json"
        images = layout.read_json(file)
        for number, image in enumerate(images):
            layout.check_keys(image, IMAGE, where=f"{file}: image {number}")
        layout.require_images(file, source, map(_path, images))
        known = {image["image_id"] for image in images}
        annotations = {
            "regions": _by_image(source / "region_descriptions.json", "regions", REGION, known),
            "objects": _by_image(source / "objects.json", "objects", OBJECT, known),
            "attributed": _by_image(source / "attributes.json", "attributes", OBJECT, known),
        }
        return {"train": in_shards(images, functools.partial(_example, source, annotations))}


def _path(image: dict[str, Any]) -> str:
    """'VG_100K_2/1.jpg' of .../rak248/VG_100K_2/1.jpg."""
    return "/".join(image["url"].split("/")[-2:])


def _by_image(path: Path, key: str, keys: Sequence[str], known: set[int]) -> dict[int, list[str]]:
    """Image id -> its annotations, each a list in JSON: as text, they take a tenth of the memory."""
    found: dict[int, list[str]] = {}
    for number, (item, _) in enumerate(layout.read_items(path)):
        where = f"{path}: item {number}"
        layout.check_keys(item, [key], where=where)
        image = item.get("image_id", item.get("id"))  # "id" in region_descriptions.json
        if image not in known:
            raise AlignError(f"{where}: expected an image of image_data.json, found {image!r}; take one version of all")
        for annotation in item[key]:
            layout.check_keys(annotation, keys, where=where)
        found.setdefault(image, []).append(json.dumps(item[key]))
    return found


def _example(source: Path, annotations: dict[str, dict[int, list[str]]], image: dict[str, Any]) -> Example:
    own = {
        name: [annotation for text in texts.get(image["image_id"], ()) for annotation in json.loads(text)]
        for name, texts in annotations.items()
    }
    example: Example = {
        "id": str(image["image_id"]),
        "image": source / _path(image),
        "image/filename": _path(image),
        "captions": [region["phrase"] for region in own["regions"]],
        "regions/id": [region["region_id"] for region in own["regions"]],
        "regions/box": _boxes(own["regions"], ("x", "y", "width", "height")),
        "width": image["width"],
        "height": image["height"],
        "coco_id": -1 if image["coco_id"] is None else image["coco_id"],
        "flickr_id": -1 if image["flickr_id"] is None else image["flickr_id"],
    }
    for name, kinds in WORDS.items():
        example[f"{name}/id"] = [annotation["object_id"] for annotation in own[name]]
        example[f"{name}/box"] = _boxes(own[name], ("x", "y", "w", "h"))
        for kind in kinds:
            words = [(word, row) for row, annotation in enumerate(own[name]) for word in annotation.get(kind) or ()]
            example[f"{name}/{kind}"] = [word for word, _ in words]
            example[f"{name}/{kind}_of"] = [row for _, row in words]
    return example


def _boxes(annotations: Iterable[dict[str, Any]], sides: Sequence[str]) -> np.ndarray:
    return np.array([[box[side] for side in sides] for box in annotations], np.int32).reshape(-1, 4)
