"""The paper's image tower on Flowers, Pets, Cars or Food: a head, then all of it with frozen BatchNorm statistics.

To reach (Jia et al. 2021, Table 7, top-1): Flowers 99.65, Pets 96.19, Cars 96.13, Food 95.88.

tfds build oxford_flowers102 --file_format=array_record   # needs TensorFlow
python -m align_jax.main --config=configs/finetune_fine_grained.py --workdir=runs/flowers \
  "--config.init.checkpoints=({'checkpoint': 'runs/align_l2', 'paths': {'image_tower': 'image_tower'}},)"

Other sets: --config.data.source.dataset=D --config.evals.test.source.dataset=D --config.data.source.split=S
--config.data.classes=C with D, S, C = oxford_iiit_pet, train, 37; cars196, train, 196; food101, train, 101 (and there
--config.evals.test.source.split=validation); of Pets and Food accuracy is top1, of Flowers often mean_per_class.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    flowers = {"name": "tfds", "dataset": "oxford_flowers102", "label": "label"}
    return ConfigDict({
        "seed": 0,
        "steps": 20_000,  # of each stage
        "batch_size": 256,  # images
        "mesh": {"fsdp": 1},  # devices over which parameters are split
        "task": {
            "name": "classify",
            "image": {
                "variant": "l2",
                "bn_group_size": 16,  # rows that share BatchNorm statistics, where they do not stand still
                "stochastic_depth": 0.2,  # of the last block, rising from 0; unstated in the paper, EfficientNet's own
                "padding": "hf",  # as in pre-training
                "remat": "block",  # what the backward pass computes anew: "none", or all of each "block"
                "scan": True,  # equal blocks as one loop: compiles in minutes
            },
            "dropout": 0.0,  # of the features; unstated in the paper
            "label_smoothing": 0.0,  # unstated in the paper
            "frozen_statistics": True,  # BatchNorm trains with the statistics that it came with, and leaves them
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
            "dtype": "bfloat16",  # of the tower; parameters, statistics, the head and the loss are f32
        },
        "data": {
            "source": {**flowers, "split": "train+validation"},
            "classes": 102,  # as many as the source has
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
            "momentum": 0.9,  # as on ImageNet: the paper names no other
            "learning_rate": 1e-2,
            "warmup": 0,  # steps
            "schedule": "cosine",
            "weight_decay": 1e-5,  # L2; matrices only
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 5_000, "minutes": 30.0, "keep": 3, "keep_every": 0, "best": ""},
        "log_every": 100,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 0,  # steps; 0: at the end alone
        "evals": {"test": {"kind": "accuracy", "source": {**flowers, "split": "test"}}},
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
            {"name": "all", "optim.learning_rate": 1e-3},
        ),
    })  # fmt: skip
