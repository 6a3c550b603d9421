"""How good the image tower is without a text: nearest neighbours and linear probes.

python -m align_jax.evaluate --checkpoint=runs/mine --evals=configs/evals/probes.py

Needs the data sets prepared by tensorflow-datasets (`tfds build imagenet2012 --file_format=array_record`, ...), which
has no FGVC-Aircraft at full size: that one is read from manifests that you write (align_jax/data/manifest.py).
Features of training images stay on disk, in features/ beside the results, for the next evaluator and the next run.
"""

from ml_collections import ConfigDict

# name -> data set and splits of tfds to learn from, to choose l2 by (None: a share of the first) and to ask.
TFDS = {
    "pets": ("oxford_iiit_pet", "train", None, "test"),
    "flowers": ("oxford_flowers102", "train", "validation", "test"),
    "food": ("food101", "train", None, "validation"),  # which is the test set
    "cars": ("cars196", "train", None, "test"),
    "cifar10": ("cifar10", "train", None, "test"),
    "cifar100": ("cifar100", "train", None, "test"),
    "dtd": ("dtd", "train", "validation", "test"),
    "sun": ("sun397/standard-part1-120k", "train", None, "test"),
    "caltech": ("caltech101", "train", None, "test"),
}


def tfds(dataset, split):
    return {"name": "tfds", "dataset": dataset, "split": split, "texts": None, "label": "label"}


def probe(train, source, **options):
    return {"kind": "linear_probe", "train": train, "source": source, "cache": True, **options}


def get_config():
    train, held_out = tfds("imagenet2012", "train"), tfds("imagenet2012", "validation")
    neighbours = {"kind": "knn", "source": held_out, "bank": train, "cache": True}
    evals = {
        # R@1 is the "ImageNet KNN" of ALIGN's Tables 8 to 10.
        "imagenet_knn": {**neighbours, "k": (1, 5, 10, 20), "weighting": "recall"},
        # As Wu et al. 2018 and DINO.
        "imagenet_knn_weighted": {
            **neighbours, "k": (10, 20, 100, 200), "weighting": "softmax", "temperature": 0.07, "features": "features",
        },
        # ALIGN's frozen head (section 5.3), but on the features of one central crop: the paper draws crops anew.
        "imagenet_sgd": probe(train, held_out, solver={
            "name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "batch_size": 1024, "epochs": 100, "decay": 0.2,
            "every": 30,
        }),
        "imagenet_lbfgs": probe(train, held_out, validation=0.1, solver={"name": "lbfgs"}),
    }  # fmt: skip
    for name, (dataset, learnt, chosen_by, asked) in TFDS.items():
        validation = tfds(dataset, chosen_by) if chosen_by else 0.2
        evals[name] = probe(tfds(dataset, learnt), tfds(dataset, asked), validation=validation)
    aircraft = {
        split: {"name": "manifest", "path": f"fgvc_aircraft/{split}.jsonl"} for split in ("train", "val", "test")
    }
    evals["aircraft"] = probe(aircraft["train"], aircraft["test"], validation=aircraft["val"])
    return ConfigDict(evals)
