"""Tensors by name, of HDF5 files as Keras writes them: whole models or weights alone, of any version."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from align_jax.types import AlignError

# Keras 3 numbers the weights of a layer in its `.weights.h5`; their order, by kind of layer.
ORDER = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}
# What else a file of a whole model holds.
BESIDE = {
    "model_config": "the names of the layers say which network it is, the shapes which variant",
    "training_config": "how it was trained",
    "optimizer_weights": "of an optimizer",
}


class KerasFile(Mapping[str, np.ndarray]):
    """ "block1a_bn/gamma" -> its values, read when they are asked for. Keras 2's "depthwise_kernel" is "kernel".

    Attributes: ignored (what else the file holds -> why it is not read).
    """

    def __init__(self, path: Path):
        self._path = path
        self.ignored: dict[str, str] = {}
        try:
            self._file = h5py.File(path, "r")
            self._places = self._numbered() if "layers" in self._file else self._legacy()
        except (OSError, RuntimeError, LookupError, ValueError) as error:
            raise self._damaged(error) from error

    def _legacy(self) -> dict[str, str]:
        """Of Keras 1 and 2, and of 3 where a whole model is written: attributes name layers and their weights."""
        root: Any = self._file
        if "model_weights" in root:
            root = root["model_weights"]
            beside = {name: why for name, why in BESIDE.items() if name in self._file or name in self._file.attrs}
            self.ignored.update(beside)
        if not _names(root, "layer_names"):
            raise AlignError(f"{self._path}: expected an HDF5 file of Keras, with layer_names, found none")
        places: dict[str, str] = {}
        for group in _names(root, "layer_names"):
            weights = [name.removesuffix(":0").split("/") for name in _names(root[group], "weight_names")]
            # A name scope may have made "stem_conv_1/kernel" of a weight of stem_conv; in a model within a model the
            # weights name its layers.
            alone = len({tuple(parts[:-1]) for parts in weights}) == 1
            for parts, name in zip(weights, _names(root[group], "weight_names"), strict=True):
                layer = group if alone else parts[-2]
                self._add(places, layer, parts[-1].removeprefix("depthwise_"), root[group][name].name)
        return places

    def _numbered(self) -> dict[str, str]:
        """Of Keras 3, weights alone: numbers, in groups that name their layer."""
        places: dict[str, str] = {}

        def visit(name: str, item: Any) -> None:
            if not isinstance(item, h5py.Dataset):
                return
            place = str(item.name)
            kind, _, number = place.split("/")[-3:]
            layer, known = item.parent.attrs.get("name"), ORDER.get(re.sub(r"_\d+$", "", kind), ())
            if layer is None or not number.isdigit() or int(number) >= len(known):
                raise AlignError(f"{self._path}: expected weights of {', '.join(ORDER)}, named, found {place}")
            self._add(places, str(layer), known[int(number)], place)

        layers: Any = self._file["layers"]
        layers.visititems(visit)
        return places

    def _add(self, places: dict[str, str], layer: str, leaf: str, place: str) -> None:
        if places.setdefault(f"{layer}/{leaf}", place) != place:
            raise AlignError(f"{self._path}: expected one tensor {layer}/{leaf}, found two; save one model alone")

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._places[name]
        try:
            return np.asarray(self._file[place])
        except (OSError, RuntimeError, KeyError) as error:
            raise self._damaged(error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _damaged(self, error: Exception) -> AlignError:
        told = " ".join(str(error).split())
        return AlignError(f"{self._path}: expected a whole HDF5 file, found a damaged one ({told}); fetch it again")


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names; one that is too long for HDF5 is split into attribute0, attribute1, ..."""
    parts = [attribute] if attribute in group.attrs else []
    if not parts:
        while f"{attribute}{len(parts)}" in group.attrs:
            parts.append(f"{attribute}{len(parts)}")
    found = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in found]
