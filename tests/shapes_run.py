"""A run of whole processes, small enough to kill: 16 drawn shapes, the tiny towers, 12 steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
COLOURS = ("red", "green", "blue", "orange")
SHAPES = ("ellipse", "rectangle", "cross", "line")

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    source = {"name": "manifest", "path": PATH}
    return ConfigDict({
        "seed": 3, "steps": 12, "batch_size": 8, "mesh": {"devices": 1},
        "task": {
            "name": "align", "embedding": 16, "image_projection": True, "temperature": 0.1,
            "image": {"width": 0.25, "stages": ((1, 3, 1, 16), (1, 3, 6, 80)), "strides": (1, 2),
                      "bn_group_size": 4, "stochastic_depth": 0.2},
            "text": {"size": "tiny", "layers": 1, "width": 32, "heads": 2, "mlp_width": 64, "dropout": 0.1},
        },
        "data": {"source": source, "vocab": {"size": 64}, "resize": 36, "crop": 32, "flip": True, "text_length": 8,
                 "shuffle": "auto", "shuffle_window": 16, "threads": 2, "prefetch": 2, "max_bad_share": 0.5},
        "optim": {"learning_rate": 1e-2, "warmup": 2, "ema": 0.9},
        "checkpoint": {"every": 4, "keep": 2}, "log_every": 1, "steps_ahead": 2, "evaluate_every": 0,
        "evals": {
            "pairs": {"kind": "retrieval", "source": source},
            "colours": {"kind": "zero_shot", "source": source, "templates": ("a {} thing", "{}")},
            "sheet": {"kind": "contact_sheet", "source": source, "title": "Shapes", "queries": 4, "top": 4},
        },
        "watch": {"non_finite": 3, "minutes": 10.0}, "export": True, "freeze": (), "stages": (),
        "init": {"image": "", "text": "", "checkpoints": ()},
    })
"""


def write_pairs(folder: Path) -> Path:
    """16 pictures, two texts and a label each, and the manifest that lists them."""
    rows = []
    for colour in COLOURS:
        for shape in SHAPES:
            picture = Image.new("RGB", (48, 40), "white")
            draw = ImageDraw.Draw(picture)
            if shape in ("cross", "line"):
                draw.line((4, 4, 44, 36), colour, 6)
            if shape == "cross":
                draw.line((4, 36, 44, 4), colour, 6)
            if shape in ("ellipse", "rectangle"):
                getattr(draw, shape)((4, 4, 44, 36), colour)
            picture.save(folder / f"{colour}_{shape}.png")
            texts = [f"{colour} {shape}", f"a {shape} in {colour}"]
            rows.append({"image": f"{colour}_{shape}.png", "texts": texts, "label": colour})
    manifest = folder / "pairs.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def write_config(folder: Path) -> Path:
    """The pictures and a config that trains on them."""
    config = folder / "config.py"
    config.write_text(CONFIG.replace("PATH", repr(str(write_pairs(folder)))))
    return config


def environment(**own: str) -> dict[str, str]:
    """Of a process that shares the suite's compilation cache; `own`: what else it has."""
    cache = str(ROOT / ".cache" / "xla")
    shared = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    return os.environ | {"JAX_PLATFORMS": "cpu"} | shared | own


def start(module: str, *arguments: str) -> subprocess.Popen:
    """`python -m module arguments` on one device."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(module: str, *arguments: str, status: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of a process that must end with `status`."""
    process = start(module, *arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, f"{module} ended with {process.returncode}:\n{out}\n{err}"
    return out, err
