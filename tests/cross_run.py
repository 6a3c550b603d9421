"""A run of a cross-encoder that has only begun: its checkpoint of step 0, made without a step of training."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from align_jax import config as configs
from align_jax import files
from align_jax import run as runs
from align_jax.checkpoint import Checkpoints
from align_jax.data import source as sources


def config(manifest: Path) -> ConfigDict:
    """The tiny ImageBERT, whose visual tokens are the cells of an EfficientNet's map."""
    return ConfigDict({
        "seed": 0, "steps": 2, "batch_size": 8, "mesh": {"devices": 1},
        "task": {
            "name": "imagebert", "moc": 0.0, "mrfr": 0.0,
            "image": {"width": 0.25, "stages": ((1, 3, 1, 16), (1, 3, 6, 80)), "strides": (1, 2),
                      "bn_group_size": 4},
            "text": {"size": "tiny", "layers": 1, "width": 32, "heads": 2, "mlp_width": 64},
        },
        "data": {
            "source": {"name": "manifest", "path": str(manifest)}, "vocab": {"size": 64}, "resize": 36, "crop": 32,
            "flip": True, "text_length": 8, "masking": {}, "negatives": {}, "shuffle": "auto", "shuffle_window": 16,
            "threads": 2, "prefetch": 2, "max_bad_share": 0.01,
        },
        "optim": {"name": "adamw", "learning_rate": 0.01, "warmup": 0},
        "checkpoint": {"every": 100}, "log_every": 1, "steps_ahead": 2, "evaluate_every": 0, "evals": {},
        "watch": {"non_finite": 3, "minutes": 10.0}, "export": False, "freeze": (), "stages": (),
        "init": {"image": "", "text": "", "checkpoints": ()},
    })  # fmt: skip


def begin(manifest: Path, workdir: Path, *, regions: dict | None = None) -> runs.Run:
    """Without a checkpoint: the parts, the config and the vocabulary. `regions` as of `write`."""
    own = config(manifest)
    if regions is not None:
        own.data.regions = regions
        del own.task["image"]
    parts = runs.prepare(own, workdir, sources.make(**own.data.source))
    files.write_json(workdir / "config.json", configs.plain(own))
    return parts


def write(manifest: Path, workdir: Path, *, regions: dict | None = None) -> Path:
    """The work directory. `regions`: a section of `config.data`; the model is shown these and no pictures."""
    parts = begin(manifest, workdir, regions=regions)
    own = parts.config
    with jax.set_mesh(parts.mesh), Checkpoints(workdir / "checkpoints", **own.checkpoint) as checkpoints:
        checkpoints.save(parts.fresh(), configs.plain(own))
    return workdir
