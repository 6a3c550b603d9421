"""Zero-shot classification over data sets that `tfds build NAME --file_format=array_record` prepares, and SimLex-999.

python -m align_jax.evaluate --checkpoint=runs/mine --evals=configs/evals/zero_shot.py

All data sets must be there; leave out the sections of those that are not. Prompts, and the names of ImageNet's classes
and some others, are those of CLIP, as the package clip-benchmark has them (pip install --no-deps clip-benchmark).
"""

from typing import Any

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Evaluators by name."""

    def section(dataset: str, split: str, templates: str, **options: Any) -> dict[str, Any]:
        """Classes are called what tfds calls them unless `classes` says otherwise."""
        source = {"name": "tfds", "dataset": dataset, "split": split, "texts": None, "label": "label"}
        return {"kind": "zero_shot", "source": source, "templates": templates, **options}

    imagenet = {"templates": "imagenet1k", "classes": "imagenet1k"}
    return ConfigDict({
        "imagenet": section("imagenet2012", "validation", **imagenet),
        "imagenet_v2": section("imagenet_v2/matched-frequency", "test", **imagenet),
        "imagenet_sketch": section("imagenet_sketch", "test", **imagenet),
        # These two have images of 200 of the 1000 classes, and those alone are told apart.
        "imagenet_r": section("imagenet_r", "test", **imagenet, subset="present"),
        "imagenet_a": section("imagenet_a", "test", **imagenet, subset="present"),
        "cifar10": section("cifar10", "test", "cifar10"),
        "cifar100": section("cifar100", "test", "cifar100"),
        "stl10": section("stl10", "test", "stl10"),
        "mnist": section("mnist", "test", "mnist", classes="mnist"),
        "svhn": section("svhn_cropped", "test", "svhn", classes="svhn"),
        "pets": section("oxford_iiit_pet", "test", "pets", classes="pets"),
        "flowers": section("oxford_flowers102", "test", "flowers", classes="flowers"),
        "cars": section("cars196", "test", "cars"),
        "food101": section("food101", "validation", "food101"),
        "sun397": section("sun397/standard-part1-120k", "test", "sun397"),
        "dtd": section("dtd", "test", "dtd"),
        "caltech101": section("caltech101", "test", "caltech101", classes="caltech101_vtab"),
        "eurosat": section("eurosat/rgb", "train", "eurosat", classes="eurosat"),  # all there is
        "resisc45": section("resisc45", "train", "resisc45"),  # all there is
        "pcam": section("patch_camelyon", "test", "pcam", classes="pcam"),
        # tfds has it at 72 pixels without names: one line an image of images_variant_test.txt, "label" its variant.
        "aircraft": {
            "kind": "zero_shot", "templates": "fgvc_aircraft",
            "source": {"name": "manifest", "path": "data/fgvc_aircraft/test.jsonl"},
        },
        "simlex": {"kind": "simlex", "path": "data/SimLex-999.txt"},
    })  # fmt: skip
