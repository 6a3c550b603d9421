"""ImageBERT of pictures alone, on composed scenes of emoji, in minutes on a laptop's processor: without a detector.

Its visual tokens are the cells of the last map of an ALIGN image tower, which is locked; it trains, end to end, with
--config.task.image.locked=0 --config.task.mrfr=0. Both towers are those of a dual encoder of these scenes:

python -m align_jax.main --config=configs/align_scenes.py --workdir=runs/scenes/align
python -m align_jax.main --config=configs/imagebert_grid.py --workdir=runs/scenes/grid \
 --config.init.image=runs/scenes/align --config.init.text=runs/scenes/align
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    # As in align_scenes.py, whose towers these are.
    scenes = {
        "name": "emoji_scenes", "split_seed": 0, "held_out_share": 0.2, "seed": 0, "flags": False, "concepts": 100,
        "most": 3, "size": 64,
    }  # fmt: skip
    by_places = {**scenes, "captions": ("places",)}  # evaluation: one text per scene, with all that is in it
    kinds = ("places", "names", "converse")
    return ConfigDict({
        "seed": 0,
        "steps": 600,
        "batch_size": 128,  # rows, half of them pairs
        "mesh": {"fsdp": 1},
        "task": {
            "name": "imagebert",
            "image": {
                "variant": None,  # no published size: `stages` are (blocks, kernel, expansion, channels)
                "stages": ((1, 3, 1, 32), (2, 3, 3, 64), (2, 3, 3, 128)),
                "strides": (2, 2, 2),  # maps of 16, 8 and 4 pixels: 16 tokens
                "stem_stride": 2,  # a map of 32 pixels
                "bn_group_size": 64,  # rows that share BatchNorm statistics, where it trains
                "stochastic_depth": 0.0,
                "padding": "hf",
                "remat": "none",  # or "block": less memory, more time
                "scan": False,  # equal blocks as one loop: faster compilation, more memory
                "locked": -1,  # all of it; 0: it trains, and mrfr must be 0
            },
            "frozen_statistics": False,  # BatchNorm with its running statistics, which stay, in training too
            # Two layers of 128.
            "text": {
                "size": "tiny", "dropout": 0.05, "attention_dropout": 0.05,
                "remat": "none",  # or "block": less memory, more time
                "scan": False,  # layers as one loop: faster compilation, more memory
                "locked": 0,  # first layers, with the embeddings, that stay as they are; -1: all
            },
            # Weights of masked words, masked object classes (cells have none), masked features of cells, and matching.
            "mlm": 1.0, "moc": 0.0, "mrfr": 1.0, "itm": 1.0,
            "hidden": 0.15, "zeroed": 0.9,  # share of the cells that are predicted, and of those without features
            "positives_only": True,  # masked losses count in pairs alone
            "over": "numbers",  # of features; "regions" sums them up, as in the paper
            "global_feature": False,  # one more visual token, the mean of all
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
        },
        "data": {
            "source": {**scenes, "split": "train", "scenes": 20_000, "captions": kinds, "noise": 0.0, "share": 1.0},
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "vocab": {"size": 3000},  # word pieces, those of the text tower
            "text_length": 32,  # word pieces
            "resize": 64, "crop": 64,  # pixels: all of a scene
            "flip": False,  # left would be right
            "masking": {
                "share": 0.15,  # of the words
                "whole_words": False,
                "predictions": 8,  # at most, of a text
            },
            "one_modality": False,  # hide words or cells, never both
            "unmatched": 0.5,  # share of the rows that are no pair
            "negatives": {"path": "", "hard": 1.0},  # a table of align_jax.mine, and how often it is used
            "threads": 2, "prefetch": 4,  # readers; batches ahead of each
            "max_bad_share": 0.01,
        },
        "optim": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup": 0.1,  # share of the steps
            "schedule": "linear",
            "weight_decay": 0.01,
            "layer_decay": 1.0,  # factor of the learning rate from one block to the one below it
            "clip_norm": 1.0,
        },
        # Steps and minutes (0: none) after which one is written; how many of the last stay, every how many steps one
        # stays for good (0: none), and by which result the best one does (empty: none).
        "checkpoint": {"every": 100, "minutes": 30.0, "keep": 2, "keep_every": 0, "best": ""},
        "log_every": 10,  # steps
        "steps_ahead": 2,  # steps that the host may start before earlier ones are done
        "evaluate_every": 0,  # steps; 0: at the end alone; a section of evals may have an "every" of its own
        "evals": {
            name: {
                "kind": "scored_retrieval", "source": {**by_places, "split": name, "scenes": 200},
                "dual": "", "top": 50, "fusion": 0.0,  # with a dual encoder: how many of its best are scored
            }
            for name in ("train", "held_out_scenes", "held_out")
        },
        # Steps in a row that may fail to be finite; minutes in which nothing is finished, after which the run ends.
        "watch": {"non_finite": 10, "minutes": 30.0},
        "export": True,
        # Published towers, by file, folder or hub name; {"checkpoint": run or export, "paths": {from: to}} of runs.
        "init": {"image": "runs/scenes/align", "text": "runs/scenes/align", "checkpoints": ()},
        "freeze": (),
        "stages": (),
    })  # fmt: skip
