"""What others load: weights, vocabulary, preprocessing, and the embeddings of a source.

python -m align_jax.export --workdir=runs/demo
"""

import functools
import shutil
from pathlib import Path

import jax
import numpy as np
from absl import flags
from safetensors.numpy import save_file

from align_jax import files, paths
from align_jax.cli import main_of
from align_jax.data import source as sources
from align_jax.data.source import Source
from align_jax.embeddings.layout import clear
from align_jax.embeddings.making import embed_source, facts_of
from align_jax.loading import EXPORTED, parts_of
from align_jax.model import Model
from align_jax.run import Run
from align_jax.state import TrainState


def export(parts: Run, state: TrainState, source: Source) -> Path:
    """Writes <workdir>/export: model.safetensors, config.json, vocab.txt (or classes.txt of a classifier),
    preprocessing.json and embeddings.
    """
    folder = parts.workdir / "export"
    model = Model(parts, parts.optimizer.averaged(state.params, state.opt_state), state.model_state)
    tree = paths.flatten({"params": model.params, "model_state": model.model_state})
    arrays = {path: np.asarray(leaf) for path, leaf in tree.items()}
    facts = {"step": str(int(state.step))}
    files.write(folder / EXPORTED, lambda partial: save_file(arrays, partial, metadata=facts))
    for name in ("config.json", *parts.pairs.files()):
        files.write(folder / name, functools.partial(shutil.copyfile, parts.workdir / name))
    preprocessing = parts.pairs.preprocessing() | {"scale": 1 / 127.5, "offset": -1.0}
    files.write_json(folder / "preprocessing.json", preprocessing)
    embeddings, wanted = folder / "embeddings", facts_of(model, source, parts.config.data.source)
    if files.is_writer():
        clear(embeddings, wanted)  # those of an earlier step
    embed_source(model, source, embeddings, facts=wanted)
    return folder


def main(_: list[str]) -> None:
    """Exports the last checkpoint of a run, with the embeddings of its training source."""
    parts = parts_of(Path(flags.FLAGS.workdir))
    source = sources.make(**parts.config.data.source)
    with jax.set_mesh(parts.mesh):
        print(export(parts, parts.restored(), source))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    main_of(main)
