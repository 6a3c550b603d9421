"""Tensors by name, of files as others write them: safetensors and torch, whole or in parts."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from safetensors import SafetensorError, safe_open

from align_jax.data.json_file import json_of
from align_jax.interop.torch_file import TorchFile
from align_jax.types import AlignError

SAFETENSORS, TORCH = ".safetensors", (".bin", ".pt", ".pth")
INDEX = ".index.json"
# In a folder, the first of these that it has: what holds no code before what may.
NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def tensors_of(path: str | Path) -> Mapping[str, np.ndarray]:
    """The tensors of a .safetensors file, of a torch file (.bin, .pt, .pth: see `torch_file`), or of an .index.json.

    Each is read when it is asked for, in its own dtype. AlignError, in one line, for a file that is damaged, that
    holds code, or of a kind that is not known.
    """
    path = Path(path)
    if not path.is_file():
        raise AlignError(f"expected a file of weights, found no {path}")
    if path.name.endswith(INDEX):
        return Sharded(path)
    if path.suffix == SAFETENSORS:
        return SafetensorsFile(path)
    if path.suffix in TORCH:
        return TorchFile(path)
    known = ", ".join((SAFETENSORS, *TORCH, INDEX))
    raise AlignError(f"{path}: expected a file of weights ({known}), found {path.suffix or 'no suffix'}")


def weights_in(folder: Path) -> Path:
    """The file of `NAMES` that the folder has, for `tensors_of`."""
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    raise AlignError(f"{folder}: expected one of {', '.join(NAMES)}, found none")


class SafetensorsFile(Mapping[str, np.ndarray]):
    """A .safetensors file, mapped into memory; the library refuses offsets that overlap, leave gaps, leave the file."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._file = safe_open(path, framework="np")
            self._names = dict.fromkeys(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        try:
            return self._file.get_tensor(name)
        except AttributeError:  # of numpy, which has no such numbers
            kind = self._file.get_slice(name).get_dtype()
            raise AlignError(f"{self._path}: tensor {name}: expected numbers that numpy has, found {kind}") from None
        except SafetensorError as error:
            raise self._damaged(error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def metadata(self) -> dict[str, str]:
        """The texts that the file holds beside its tensors."""
        return self._file.metadata() or {}

    def _damaged(self, error: Exception) -> AlignError:
        told = " ".join(str(error).split())
        return AlignError(f"{self._path}: expected a whole file, found a damaged one ({told}); fetch it again")


class Sharded(Mapping[str, np.ndarray]):
    """The files that an index names, as one: {"weight_map": {tensor: file beside the index}}."""

    def __init__(self, path: Path):
        places = json_of(path).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise AlignError(f"{path}: expected a weight_map of tensors to files, found {type(places).__name__}")
        files = sorted(set(places.values()))
        for name in files:
            if PurePosixPath(name).name != name or name.endswith(INDEX):
                raise AlignError(f"{path}: expected names of files beside the index, found {name!r}")
        self._files = {name: tensors_of(path.parent / name) for name in files}
        self._places: dict[str, str] = places
        held = {(tensor, name) for name, file in self._files.items() for tensor in file}
        if differing := sorted(held ^ set(places.items())):
            tensor, name = differing[0]
            found = f"it in {name}" if differing[0] in held else f"none in {name}"
            raise AlignError(
                f"{path}: tensor {tensor}: expected it where the index says, found {found}; fetch all again"
            )

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[self._places[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
