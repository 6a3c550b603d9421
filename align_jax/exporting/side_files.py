"""What stands beside every export: tokenizer or classes, preprocessing.json, signature.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax import config as configs
from align_jax import files, provenance
from align_jax.data import preprocessing
from align_jax.data.pixels import DEFAULT_PIXELS
from align_jax.exporting.subject import Subject
from align_jax.run import Run
from align_jax.weights import Weights

SIGNATURE = "signature.json"


def write(parts: Run, folder: Path, signature: Mapping[str, Any], *, programs: bool = False) -> None:
    """Each whole; all processes call it together. `programs` take the bytes of pictures, not numbers made of them."""
    for name, save in parts.pairs.files().items():
        files.write(folder / name, save)
    told = parts.pairs.preprocessing()
    if "image" in parts.pairs.blank():
        told = preprocessing.described(told, parts.config.task.get("pixels", DEFAULT_PIXELS), applied=programs)
    files.write_json(folder / preprocessing.FILE, told)
    files.write_json(folder / SIGNATURE, signature)


def signature(parts: Run, weights: Weights, *, format: str, kind: str) -> dict[str, Any]:
    """What an export is of. `digest` is that of the weights as trained; every process calls it together."""
    params = weights.params
    temperature = float(np.exp(np.asarray(params["log_temperature"]))) if "log_temperature" in params else None
    versions = provenance.versions()
    return {
        "format": format,
        "task": configs.plain(parts.config.task),
        "weights": kind, "digest": weights.digest, "step": weights.step, "averaged": weights.averaged,
        "temperature": temperature,
        "versions": {name: versions[name] for name in ("align_jax", "jax", "numpy") if name in versions},
    }  # fmt: skip


def functions(subject: Subject, suffix: str) -> dict[str, Any]:
    """Inputs and outputs of each function, B being any number of rows; `suffix` of its file, or ''."""
    found = {}
    for name in subject.functions:
        row = subject.output(name)
        found[name] = {
            **({"file": name + suffix} if suffix else {}),
            "inputs": [_array(key, given.dtype, given.shape) for key, given in subject.inputs(name).items()],
            "outputs": [_array("rows", row.dtype, row.shape)],
            "unit_length": name.startswith("embed_"),
        }
    return found


def _array(name: str, dtype: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "dtype": np.dtype(dtype).name, "shape": ["B", *shape]}
