"""The smallest real run: a manifest of small pictures, and a config that trains on it in seconds."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

COLOURS = ("red", "green", "blue", "grey")


def manifest(folder: Path, count: int = 16) -> Path:
    """pairs.jsonl of `count` pictures of 40 x 40 pixels beside it, two texts and a label each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        colour = COLOURS[i % 4]
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
        rows.append(
            {"id": f"n{i}", "image": f"{i}.png", "texts": [f"a {colour} square", f"square {i}"], "label": colour}
        )
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(path: Path) -> ConfigDict:
    """Two steps of the tiny task of align_jax.tasks.align on one device."""
    return ConfigDict({
        "seed": 0, "steps": 2, "batch_size": 8, "mesh": {"fsdp": 1, "devices": 1},
        "task": {
            "name": "align", "embedding": 16, "image_projection": True, "temperature": 0.5, "label_smoothing": 0.1,
            "image": {"width": 0.25, "stages": ((1, 3, 1, 16), (1, 3, 6, 80)), "strides": (1, 2),
                      "bn_group_size": 4, "padding": "same"},
            "text": {"size": "tiny", "layers": 1, "width": 32, "heads": 2, "mlp_width": 64},
        },
        "data": {
            "source": {"name": "manifest", "path": str(path)}, "vocab": {"size": 64}, "resize": 36, "crop": 32,
            "flip": True, "text_length": 8, "shuffle": "auto", "shuffle_window": 16, "threads": 2, "prefetch": 2,
            "max_bad_share": 0.01,
        },
        "optim": {"name": "adamw", "learning_rate": 0.01, "warmup": 0},
        "checkpoint": {"every": 100}, "log_every": 1, "steps_ahead": 2, "evaluate_every": 0, "evals": {},
        "watch": {"non_finite": 3, "minutes": 10.0}, "export": False, "freeze": (), "stages": (),
        "init": {"image": "", "text": "", "checkpoints": ()},
    })  # fmt: skip
