"""The folder that `align_jax.load` and every verb here take: model.safetensors and config.json."""

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from align_jax import compact, files
from align_jax.exporting.subject import Rows, Subject, split
from align_jax.interop.own_folder import CONFIG, ORIGIN, WEIGHTS
from align_jax.interop.reading import SafetensorsFile
from align_jax.run import Run


def write(subject: Subject, folder: Path) -> dict[str, Any]:
    """Writes both files, and the origin of a model that comes from elsewhere."""
    save(subject.stored, subject.parts, folder, step=subject.exact.step, kind=subject.kind)
    origin = subject.parts.workdir / ORIGIN
    if origin.is_file():  # `convert` wrote it: whose weights they are stays with them
        shutil.copyfile(origin, folder / ORIGIN)
    return {"file": WEIGHTS}


def save(stored: Mapping[str, np.ndarray], parts: Run, folder: Path, *, step: int | None, kind: str) -> None:
    """Writes both files, each whole; all processes call it together."""
    facts = {} if step is None else {"step": str(step)}
    if kind != "float32":  # else one fact: of several, the library's order is another each time, and so are the bytes
        facts["weights"] = kind
    files.write(folder / WEIGHTS, lambda partial: save_file(dict(stored), partial, metadata=facts))
    files.write(folder / CONFIG, functools.partial(shutil.copyfile, parts.workdir / CONFIG))  # as trained, mesh and all


def read(subject: Subject, folder: Path) -> dict[str, Rows]:
    """The functions with the weights in the file."""
    file = SafetensorsFile(folder / WEIGHTS)
    return subject.rows(*split(compact.unpack(file, file.metadata().get("weights", "float32"))))
