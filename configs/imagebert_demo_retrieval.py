"""The ImageBERT of imagebert_demo.py fine-tuned for retrieval, in minutes on a laptop's processor.

Its negatives are those that the dual encoder finds hard; `bash launch/demo_imagebert.sh` does it all:

python -m align_jax.mine --model=runs/scenes/align --data=SOURCE --out=runs/scenes/negatives.parquet
python -m align_jax.main --config=configs/imagebert_demo_retrieval.py --workdir=runs/scenes/finetuned \
  --config.init.checkpoints[0].checkpoint=runs/scenes/imagebert/clean
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    # As in align_scenes.py, whose regions these are.
    scenes = {
        "name": "emoji_scenes", "split_seed": 0, "held_out_share": 0.2, "seed": 0, "flags": False, "concepts": 100,
        "most": 3, "size": 64,
    }  # fmt: skip
    by_places = {**scenes, "captions": ("places",)}  # evaluation: one text per scene, with all that is in it
    parts = ("text_tower", "region_projection", "box_projection", "region_norm", "match_head")
    return ConfigDict({
        "seed": 0,
        "steps": 400,
        "batch_size": 32,  # pairs, each with as many negatives as `candidates` and `directions` say
        "mesh": {"fsdp": 1},
        "task": {
            "name": "imagebert_retrieval",
            # Two layers of 128.
            "text": {
                "size": "tiny", "dropout": 0.05, "attention_dropout": 0.05,
                "remat": "none",  # or "block": less memory, more time
                "scan": False,  # layers as one loop: faster compilation, more memory
                "locked": 0,  # first layers, with the embeddings, that stay as they are; -1: all
            },
            "binary": 0.0, "multi_class": 1.0, "triplet": 0.0,  # weights of the losses
            "margin": 0.2,  # of triplet
            "global_feature": False,  # one more visual token, the mean of all
            "micro_batches": 1,  # slices of each device's rows: less memory, the same step
            "gather": "step",  # or "block": parameters split over fsdp come together where used: less memory with remat
            "split": (),  # (pattern of parameter paths, axis or -1 for whole): over fsdp; the rest go by size
            "gradient_dtype": "float32",  # in which devices add up gradients; "bfloat16" halves that traffic
        },
        "data": {
            "source": {**by_places, "split": "train", "scenes": 20_000, "noise": 0.0, "share": 1.0},
            "shuffle": "auto",  # or "global", "blocks": which records may follow one another, align_jax/data/order.py
            "shuffle_window": 16,  # blocks whose records are shuffled together
            "vocab": {"size": 3000},  # word pieces, those of the text tower
            "text_length": 32,  # word pieces
            "regions": {
                "path": ("runs/scenes/regions/train", "runs/scenes/regions/held_out_scenes",
                         "runs/scenes/regions/held_out"),
                "key": "id",  # how a record's id gives the key of its regions
                "width": 128,  # of their features
                "classes": 100,
                "most": 4,  # three things and the whole; fewer: the surest
                "soft": False,  # classes as distributions; these are exact
            },
            "candidates": 6,  # for a text and for an image, the right one among them
            "directions": "both",  # negative texts for images, negative images for texts; or "text", "image" alone
            "negatives": {"path": "runs/scenes/negatives.parquet", "hard": 0.5},  # and how often one is from there
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
        "init": {
            "image": "", "text": "",
            "checkpoints": ({"checkpoint": "runs/scenes/imagebert/clean", "paths": {part: part for part in parts}},),
        },
        "freeze": (),
        "stages": (),
    })  # fmt: skip
