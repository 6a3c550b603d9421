"""ALIGN from scratch on composed scenes of emoji, in minutes on a laptop's processor: what a cross-encoder re-ranks.

python -m align_jax.main --config=configs/align_scenes.py --workdir=runs/align_scenes
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    # Whole families of concepts are held out, and of the others some companies (align_jax/data/emoji_scenes.py).
    scenes = {
        "name": "emoji_scenes", "split_seed": 0, "held_out_share": 0.2, "seed": 0, "flags": False, "concepts": 100,
        "most": 3, "size": 64,
    }  # fmt: skip
    by_places = {**scenes, "captions": ("places",)}  # evaluation: one text per scene, with all that is in it
    return ConfigDict({
        "seed": 0,
        "steps": 500,
        "batch_size": 128,  # pairs
        "mesh": {"fsdp": 1},
        "task": {
            "name": "align",
            "image": {
                "variant": None,  # no published size: `stages` are (blocks, kernel, expansion, channels)
                "stages": ((1, 3, 1, 32), (2, 3, 3, 64), (2, 3, 3, 128)),  # few and wide: matrix products, not traffic
                "strides": (2, 2, 2),  # maps of 16, 8 and 4 pixels
                "stem_stride": 2,  # a map of 32 pixels
                "bn_group_size": 64,  # rows that share BatchNorm statistics; two groups, for two cores
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
            "image_projection": True,  # from 128 features
            "temperature": 0.07,  # at the start: from 1.0 it would take longer than the run to come down
            "label_smoothing": 0.0,  # with 256 candidates, 0.1 would be felt
            "objective": "softmax",  # or "sigmoid"
            "negatives": 1.0,  # share of the in-batch negatives that count
            "loss_form": "dense",  # "streamed", "ring": less memory, the same loss
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
            "duplicates": "ignored",  # a short caption may be that of several scenes
        },
        "data": {
            "source": {
                **scenes, "split": "train", "scenes": 20_000, "captions": ("places", "names", "converse"), "noise": 0.0,
                "share": 1.0,
            },
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "vocab": {"size": 3000},  # word pieces, learnt on the captions
            "resize": 64, "crop": 64,  # pixels: all of a scene, so that boxes stay true
            "flip": False,  # left would be right
            "text_length": 32,  # word pieces
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
            "trained": {"kind": "retrieval", "source": {**by_places, "split": "train", "scenes": 500}},
            "held_out_scenes": {
                "kind": "retrieval", "source": {**by_places, "split": "held_out_scenes", "scenes": 500},
            },
            "held_out": {"kind": "retrieval", "source": {**by_places, "split": "held_out", "scenes": 200}},
        },
        # Steps in a row that may fail to be finite; minutes in which nothing is finished, after which the run ends.
        "watch": {"non_finite": 10, "minutes": 30.0},
        "export": True,
        # Published towers, by file, folder or hub name; {"checkpoint": run or export, "paths": {from: to}} of runs.
        "init": {"image": "", "text": "", "checkpoints": ()},
        "freeze": (), "stages": (),
    })  # fmt: skip
