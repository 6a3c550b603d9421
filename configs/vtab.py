"""VTAB-1k with the image tower of an ALIGN run: what one trial is, and what the trials are drawn from.

python -m align_jax.vtab --checkpoint=runs/align_b7 --workdir=runs/align_b7_vtab --config=configs/vtab.py

ALIGN (section 5.3) says "50 trials for each task" and names the ranges of Zhai et al. 2019, which are for their models.
Those in `search` are our choice, around ALIGN's own recipe for fine-grained data sets: SGD with momentum, cosine.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob of a trial, as align_jax.main takes them; override with --config.a.b=value."""
    # Where things are and which way they look is the label of some tasks: a window or a mirror would hide it. For these
    # "align" with resize = crop takes the whole picture, as it is.
    sides = ((224, 280), (289, 360))  # pixels in training, in evaluation
    views = [(crop, side, "inception", None, True) for crop, side in sides]
    views += [(crop, side, "align", crop, False) for crop, side in sides]
    return ConfigDict({
        # A trial draws each of these, uniformly, by (seed, task, number of the trial), and replaces the values below.
        # {"keys", "low", "high"}: uniform in the logarithm; {"keys", "values"}: one of the values.
        "search": (
            {"keys": ("optim.learning_rate",), "low": 1e-3, "high": 1e-1},
            {"keys": ("optim.weight_decay",), "low": 1e-6, "high": 1e-3},
            {"keys": ("optim.groups",), "values": ((), (("image_tower", 0.1),))},  # the tower as fast, or slower
            {"keys": ("steps",), "values": (500, 1000, 2500)},
            {"keys": ("task.frozen_statistics",), "values": (True, False)},
            {"keys": ("data.crop", "data.eval_crop", "data.augment", "data.resize", "data.flip"), "values": views},
        ),
        "seed": 0,  # of the search and of the trials; runs of the best one take this, one more, two more
        "steps": 1000,
        "batch_size": 128,
        "mesh": {"fsdp": 1},
        "task": {
            "name": "classify",
            "image": {},  # fields that shall differ from those of the tower in --checkpoint
            "dropout": 0.0,  # of the features
            "label_smoothing": 0.0,
            "frozen_statistics": False,  # BatchNorm keeps those that the tower came with
            "micro_batches": 1,
            "dtype": "bfloat16",  # of the tower; parameters, statistics and the loss are f32
        },
        "data": {
            # The sweep names task, split and number of classes. data_dir: None for tfds' default.
            "source": {"name": "vtab", "task": "", "split": "", "data_dir": None},
            "classes": 0,
            "augment": "inception",
            "crop": 289,  # pixels in training
            "eval_crop": 360,  # pixels in evaluation
            "resize": None,  # pixels of the whole square, of "align"
            "flip": True,
            "shuffle": "auto",
            "shuffle_window": 16,
            "threads": 16,
            "prefetch": 4,
            "max_bad_share": 0.01,
        },
        "optim": {
            "name": "sgd",
            "learning_rate": 1e-2,
            "momentum": 0.9,
            "warmup": 50,  # steps from 0
            "schedule": "cosine",  # to 0 at the last step
            "weight_decay": 1e-5,
            "groups": (),
        },
        "checkpoint": {"every": 500, "keep": 1},  # a trial that is done keeps none
        "log_every": 50,
        "steps_ahead": 2,
        "evaluate_every": 0,  # the sweep evaluates at the end alone
        "evals": {},  # the sweep names them
        "watch": {"non_finite": 10, "minutes": 30.0},  # a trial that is not finite for so long has failed
        "export": False,
        "init": {"image": "", "text": "", "checkpoints": ()},  # the sweep names --checkpoint
        "freeze": (),
        "stages": (),
    })  # fmt: skip
