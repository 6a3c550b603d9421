"""Weights of any kind that is read here, by the name of a file, a folder or a repository; and writing them whole."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from align_jax import files
from align_jax.data.json_file import json_of
from align_jax.interop import (
    hub,
    huggingface_align,
    huggingface_bert,
    huggingface_efficientnet,
    model_card,
    own_folder,
    torch_efficientnet,
)
from align_jax.interop.accounts import Attributes, Tensors
from align_jax.interop.own_folder import CONFIG, WEIGHTS
from align_jax.interop.pretrained import Foreign, Pretrained
from align_jax.interop.reading import tensors_of, weights_in
from align_jax.interop.torch_file import TorchFile
from align_jax.types import AlignError

KERAS = (".h5", ".hdf5")
# model_type of a config.json -> what reads it.
READERS: dict[str, Callable[[Tensors, Attributes, Path], Pretrained]] = {
    "align": huggingface_align.read,
    **dict.fromkeys(huggingface_bert.TYPES, huggingface_bert.read),
    "efficientnet": huggingface_efficientnet.read,
}


def open_pretrained(name_or_path: str | Path) -> Pretrained:
    """A model or a tower: a Hugging Face folder or hub name, a file of weights, or a folder that `convert` wrote.

    A file is read with the config.json beside it, where there is one. AlignError, in one line, for what is missing,
    damaged or of no kind that is read.
    """
    path = Path(name_or_path)
    if path.is_file():
        return _of_file(path)
    return _of_folder(path if path.is_dir() else hub.fetch(str(name_or_path)), str(name_or_path))


def huggingface_of(model: Pretrained) -> Foreign:
    """The model, or the tower, in Hugging Face's layout, with a model card. AlignError for what that cannot express."""
    name = model.task.get("name")
    if name == "align":
        writer = huggingface_align.write
    elif name not in (None, "classify"):
        raise AlignError(
            f"{model.where}: expected a model that transformers has, found one of task {name}; choose "
            "--format=stablehlo or --format=onnx"
        )
    else:
        writer = huggingface_efficientnet.write if "image" in model.task else huggingface_bert.write
    found = writer(model)
    card = {model_card.FILE: lambda path: path.write_text(model_card.text(model), "utf-8")}
    return Foreign(found.tensors, found.config, {**found.files, **card})


def save_foreign(
    foreign: Foreign, folder: Path, *, force: bool = False, check: Callable[[Path], None] = lambda written: None
) -> None:
    """Writes model.safetensors, config.json and the files into `folder`, whole or not at all.

    `check` sees what was written before it gets its name, and raises where it is not right. AlignError where something
    stands there, unless `force` says that it may be replaced and it is a folder of weights.
    """
    files.check_free(folder, force=force, known_by=WEIGHTS)
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in foreign.tensors.items()}
    try:
        with files.whole_folder(folder) as partial:
            partial.mkdir(parents=True)
            save_file(arrays, partial / WEIGHTS, metadata=dict(foreign.metadata))
            (partial / CONFIG).write_text(json.dumps(foreign.config, indent=2) + "\n", "utf-8")
            for name, save in foreign.files.items():
                save(partial / name)
            check(partial)
    except OSError as error:
        raise AlignError(f"{folder}: expected a folder that can be written, found {error.strerror}") from error


def _of_file(path: Path) -> Pretrained:
    if path.suffix in KERAS:
        from align_jax.interop import keras_efficientnet  # which needs h5py

        return keras_efficientnet.read(path)
    if (path.parent / CONFIG).is_file():
        return _of_folder(path.parent, str(path), path)
    return _of_tensors(path)


def _of_tensors(path: Path) -> Pretrained:
    """A file that says by itself what it is, but for timm's config.json beside it."""
    tensors = tensors_of(path)
    found = torch_efficientnet.read(tensors, path)
    return dataclasses.replace(found, facts={**found.facts, **_told(tensors)})


def _of_folder(folder: Path, where: str, weights: Path | None = None) -> Pretrained:
    config = json_of(folder / CONFIG)
    if own_folder.is_own(config):
        return own_folder.read(folder)
    weights = weights or weights_in(folder)
    card = model_card.facts_of(folder)
    if "architecture" in config and "model_type" not in config:  # timm's
        found = _of_tensors(weights)
        return dataclasses.replace(found, facts={**found.facts, **card})
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in READERS:
        raise AlignError(
            f"{folder / CONFIG}: model_type: expected one of {', '.join(READERS)}, found {kind!r}, which nothing here "
            "reads"
        )
    stored = tensors_of(weights)
    tensors, attributes = Tensors(stored, where), Attributes(config, str(folder / CONFIG))
    found = READERS[kind](tensors, attributes, folder)
    tensors.close()
    attributes.close()
    others = {name: count for name, count in tensors.dtypes.items() if name != "float32"}
    precision = {"precision": f"{json.dumps(others)} tensors of the source, float32 here"} if others else {}
    return dataclasses.replace(found, facts={**found.facts, **_told(stored), **precision, **card})


def _told(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """What of a file was left out."""
    return {"file": tensors.note} if isinstance(tensors, TorchFile) and tensors.note else {}
