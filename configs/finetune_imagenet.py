"""The paper's image tower on ImageNet: a head on frozen features, then all of it (Jia et al. 2021, section 5.3).

To reach: 85.5 % top-1 with frozen features, 88.64 % after both stages (Tables 4 and 5).

tfds build imagenet2012 --file_format=array_record   # from the archives that you have downloaded; needs TensorFlow
python -m align_jax.main --config=configs/finetune_imagenet.py --workdir=runs/finetune_imagenet \
  "--config.init.checkpoints=({'checkpoint': 'runs/align_l2', 'paths': {'image_tower': 'image_tower'}},)"

The tower of `task.image` must be the one of that run (or export). Each stage is a run in a folder of its own.
"""

from ml_collections import ConfigDict

EPOCH = 1_281_167 / 1024  # steps


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    imagenet = {"name": "tfds", "dataset": "imagenet2012", "label": "label", "id": "file_name"}
    return ConfigDict({
        "seed": 0,
        "steps": round(100 * EPOCH),  # of each stage
        "batch_size": 1024,  # images
        "mesh": {"fsdp": 1},  # devices over which parameters are split
        "task": {
            "name": "classify",
            "image": {
                "variant": "l2",
                "bn_group_size": 16,  # rows that share BatchNorm statistics, as in pre-training
                "stochastic_depth": 0.2,  # of the last block, rising from 0; unstated in the paper, EfficientNet's own
                "padding": "hf",  # as in pre-training
                "remat": "block",  # what the backward pass computes anew: "none", or all of each "block"
                "scan": True,  # equal blocks as one loop: compiles in minutes
            },
            "dropout": 0.0,  # of the features; unstated in the paper
            "label_smoothing": 0.0,  # unstated in the paper
            "frozen_statistics": False,  # whether BatchNorm trains with the statistics that it came with
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
            "dtype": "bfloat16",  # of the tower; parameters, statistics, the head and the loss are f32
        },
        "data": {
            "source": {**imagenet, "split": "train"},
            "classes": 1000,  # as many as the source has
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "augment": "inception",  # windows of 8 % to 100 % of the picture; or "align": the whole resized, a window
            "crop": 289,  # pixels, in training
            "eval_crop": 360,  # pixels, in evaluation: of the central square
            "eval_share": 0.875,  # of the shorter side that this square has
            "flip": True,
            "threads": 16,  # readers per host
            "prefetch": 4,  # batches read ahead, per reader
            "max_bad_share": 0.01,  # unusable records beyond which the run stops
        },
        "optim": {
            "name": "sgd",
            "momentum": 0.9,
            "learning_rate": 0.1,
            "warmup": 0,  # steps
            "schedule": "steps",  # times `factor` at each of `boundaries`: every 30 epochs
            "boundaries": tuple(round(epochs * EPOCH) for epochs in (30, 60, 90)),
            "factor": 0.2,
            "weight_decay": 0.0,
            "groups": (),
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 5_000, "minutes": 30.0, "keep": 3, "keep_every": 0, "best": ""},
        "log_every": 100,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 12_500,  # steps; 0: at the end alone
        "evals": {"validation": {"kind": "accuracy", "source": {**imagenet, "split": "validation"}}},
        # Steps in a row that may fail to be finite; minutes in which nothing is finished, after which the run ends.
        "watch": {"non_finite": 10, "minutes": 30.0},
        "export": False,
        "init": {
            "image": "", "text": "",  # published towers, by file, folder or hub name
            "checkpoints": ({"checkpoint": "runs/align_l2", "paths": {"image_tower": "image_tower"}},),
        },
        "freeze": (),
        "stages": (
            {"name": "head", "freeze": ("image_tower",)},
            {
                "name": "all", "optim.learning_rate": 0.01, "optim.groups": (("image_tower", 0.1),),
                "data.crop": 475, "data.eval_crop": 600,
            },
        ),
    })  # fmt: skip
