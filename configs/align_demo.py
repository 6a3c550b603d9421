"""ALIGN from scratch on emoji, in minutes on a laptop's processor.

bash launch/demo.sh
python -m align_jax.main --config=configs/align_demo.py --workdir=runs/demo
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob; override with --config.a.b=value."""
    source = {"name": "emoji", "split": "train", "captions": ("name", "aliases", "subcategory", "category")}
    names = {"name": "emoji", "captions": ("name",)}
    return ConfigDict({
        "seed": 0,
        "steps": 700,
        "batch_size": 256,  # pairs
        "mesh": {"fsdp": 1},
        "task": {
            "name": "align",
            "image": {"variant": "b0", "width": 0.5, "depth": 0.5, "bn_group_size": 64, "stochastic_depth": 0.0,
                      "padding": "hf", "stem_stride": 2, "strides": (1, 1, 2, 2, 1, 2, 1)},
            "text": {"size": "tiny", "dropout": 0.0, "attention_dropout": 0.0},
            "embedding": 128,
            "image_projection": True,
            "temperature": 0.07,
            "label_smoothing": 0.0,
        },
        "data": {
            "source": source,
            "vocab": {"size": 3000},  # word pieces
            "resize": 54, "crop": 48, "flip": False,  # pixels; arrows and flags are not mirrored
            "text_length": 20,  # word pieces
            "threads": 2, "prefetch": 4,
            "max_bad_share": 0.01,
        },
        "optim": {"name": "adamw", "learning_rate": 3e-3, "warmup": 50, "schedule": "cosine", "weight_decay": 0.05,
                  "clip_norm": 1.0, "bounds": (("log_temperature", -4.6, None),)},
        "checkpoint": {"every": 200, "keep": 2},
        "log_every": 10,
        "evaluate_every": 0,
        "evals": {
            "trained": {"kind": "retrieval", "source": {**names, "split": "train"}},
            "held_out": {"kind": "retrieval", "source": {**names, "split": "held_out"}},
            "held_out_no_flags": {"kind": "retrieval", "source": {**names, "split": "held_out", "flags": False}},
            "held_out_category": {
                "kind": "zero_shot", "source": {**names, "split": "held_out"},
                "templates": ("a picture of {}",),
            },
        },
        "export": False,
        "init": (), "freeze": (), "stages": (),
    })  # fmt: skip
