"""ALIGN from scratch on emoji, in minutes on a laptop's processor.

bash launch/demo.sh
python -m align_jax.main --config=configs/align_demo.py --workdir=runs/demo
"""

from ml_collections import ConfigDict


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
        "steps": 1000,
        "batch_size": 256,  # pairs
        "mesh": {"fsdp": 1},
        "task": {
            "name": "align",
            "image": {
                "variant": None,  # no published size: `stages` are (blocks, kernel, expansion, channels)
                "stages": ((1, 3, 2, 48), (2, 3, 3, 96), (3, 3, 3, 192)),  # few and wide: matrix products, not traffic
                "strides": (2, 1, 2),  # maps of 10, 10 and 5 pixels
                "stem_stride": 2,  # a map of 20 pixels
                "bn_group_size": 128,  # rows that share BatchNorm statistics; two groups, for two cores
                "stochastic_depth": 0.0,  # minutes of training do not overfit
                "padding": "hf",
                "remat": "none",  # or "block": less memory, more time
                "scan": False,  # equal blocks as one loop: faster compilation, more memory
                "locked": 0,  # first blocks, with the stem, that stay as they are; -1: all
            },
            # Two layers of 128.
            "text": {
                "size": "tiny", "dropout": 0.05, "attention_dropout": 0.05,
                "remat": "none", "scan": False,
                "locked": 0,  # first layers, with the embeddings, that stay as they are; -1: all
            },
            "text_pooling": "cls",  # what stands for a text, or "mean" over its pieces
            "frozen_statistics": False,  # BatchNorm with its running statistics, which stay, in training too
            "embedding": 128,
            "image_projection": True,  # from 192 features
            "temperature": 0.07,  # at the start: from 1.0 it would take longer than the run to come down
            "label_smoothing": 0.0,  # with 256 candidates, 0.1 would be felt
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
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "vocab": {"size": 3000},  # word pieces, learnt on the captions
            "resize": 44, "crop": 40,  # pixels
            "flip": False,  # arrows and flags mean something else when mirrored
            "text_length": 16,  # word pieces
            "threads": 2, "prefetch": 4,  # readers; batches ahead of each
            "features": False,  # of locked towers: computed once, from central windows, without flips
            "max_bad_share": 0.01,
        },
        "optim": {
            "name": "adamw",
            "learning_rate": 2e-3,
            "warmup": 50,  # steps
            "schedule": "cosine",
            "weight_decay": 0.05,
            "layer_decay": 1.0,  # factor of the learning rate from one block to the one below it
            "clip_norm": 1.0,
            "bounds": (("log_temperature", -4.6, None),),  # 1/100
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 100, "minutes": 30.0, "keep": 2, "keep_every": 0, "best": ""},
        "log_every": 10,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 0,  # steps; 0: at the end alone; a section of evals may have an "every" of its own
        "evals": {
            "trained": {"kind": "retrieval", "source": {**by_name, "split": "train"}},
            "trained_no_flags": {"kind": "retrieval", "source": {**by_name, "split": "train", "flags": False}},
            "held_out": {"kind": "retrieval", "source": {**by_name, "split": "held_out"}},
            "held_out_no_flags": {"kind": "retrieval", "source": {**by_name, "split": "held_out", "flags": False}},
            "held_out_categories": {
                "kind": "zero_shot", "source": {**by_name, "split": "held_out"},
                "templates": templates, "classes": words,
            },
            "held_out_categories_no_flags": {
                "kind": "zero_shot", "source": {**by_name, "split": "held_out", "flags": False},
                "templates": templates, "classes": words,
            },
            # The category of a held-out image, from the trained images that lie nearest to it: no text takes part.
            "held_out_neighbours": {
                "kind": "knn", "source": {**by_name, "split": "held_out"}, "bank": {**by_name, "split": "train"},
                "k": (1, 5), "weighting": "majority",
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
        "init": {"image": "", "text": "", "checkpoints": ()},
        "freeze": (), "stages": (),
    })  # fmt: skip
