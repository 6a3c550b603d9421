"""What others load: weights, vocabulary, preprocessing, and the embeddings of a source."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from align_jax import config as configs
from align_jax import paths
from align_jax.data.source import Source
from align_jax.embed import embed_source
from align_jax.model import Model
from align_jax.run import Run
from align_jax.state import TrainState


def export(parts: Run, state: TrainState, source: Source) -> Path:
    """Writes <workdir>/export: model.safetensors, config.json, vocab.txt, preprocessing.json, embeddings/ of `source`."""
    folder = parts.workdir / "export"
    folder.mkdir(parents=True, exist_ok=True)
    params = parts.optimizer.averaged(state.params, state.opt_state)
    tree = {"params": params, "model_state": state.model_state}
    save_file(
        {path: np.asarray(jax.device_get(x)) for path, x in paths.flatten(tree).items()}, folder / "model.safetensors"
    )
    configs.save(parts.config, folder / "config.json")
    shutil.copyfile(parts.workdir / "vocab.txt", folder / "vocab.txt")
    preprocessing = {
        "resize": parts.pairs.resize, "crop": parts.pairs.crop, "resample": "bilinear", "keep_aspect": False,
        "scale": 1 / 127.5, "offset": -1.0, "text_length": parts.pairs.text_length,
    }  # fmt: skip
    (folder / "preprocessing.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
    embed_source(Model(parts, params, state.model_state), source, folder / "embeddings")
    return folder
