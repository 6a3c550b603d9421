"""Tensors of a file that torch.save wrote, read without torch and without running what the file says.

Such a file is a pickle, which can name any function to be called, beside the numbers. The unpickler here knows the few
names that tensors need, all of them stand for functions of this module, and any other is refused by its name.

Both formats are read: the zip archive of torch 1.6 and later, and the stream before it, whose storages follow the
pickles. https://pytorch.org/docs/stable/notes/serialization.html
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from align_jax.types import AlignError

MAGIC = 0x1950A86A20F9469CFC6C  # of the stream
WRAPPERS = ("state_dict", "model")  # keys below which checkpoints of training keep the weights
DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class Storage(NamedTuple):
    """A run of numbers that tensors look into."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """Where in a storage a tensor lies, in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile(Mapping[str, np.ndarray]):
    """The tensors of a state dict, or of a checkpoint that holds one below `state_dict` or `model`.

    Attributes: note (what of the file was not read: the other keys of a checkpoint; "" where there are none).
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            self._storages = _Archive(path) if zipfile.is_zipfile(path) else _Stream(path)
            found = self._storages.content
        except AlignError:
            raise
        except Exception as error:  # of damaged bytes the standard library raises nearly anything
            raise self._damaged(f"{type(error).__name__}: {error}") from error
        self.note = ""
        if isinstance(found, Mapping) and (key := next((k for k in WRAPPERS if isinstance(found.get(k), Mapping)), "")):
            others = sorted(str(other) for other in found if other != key)
            self.note = f"weights below {key!r}, without {', '.join(others) if others else 'anything else'}"
            found = found[key]
        if not isinstance(found, Mapping):
            raise AlignError(f"{path}: expected tensors by name, found {type(found).__name__}; save a state_dict")
        for name, tensor in found.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                kind = type(tensor).__name__
                raise AlignError(f"{path}: expected tensors by name, found {name!r} to be {kind}; save a state_dict")
        self._tensors: dict[str, Tensor] = dict(found)

    def __getitem__(self, name: str) -> np.ndarray:
        storage, offset, shape, strides = self._tensors[name]
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if math.prod(shape) == 0:
            return np.zeros(shape, storage.dtype)
        if last >= storage.size:
            raise self._damaged(f"tensor {name} leaves its storage")
        try:
            numbers = self._storages.read(storage)
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise self._damaged(str(error)) from error
        steps = [stride * storage.dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _damaged(self, told: str) -> AlignError:
        told = " ".join(told.split())
        return AlignError(f"{self._path}: expected a file of torch.save, found a damaged one ({told}); fetch it again")


class _Archive:
    """<name>/data.pkl, and a file of numbers in <name>/data for each storage; zipfile checks their sums."""

    def __init__(self, path: Path):
        self._zip = zipfile.ZipFile(path)
        members = [name for name in self._zip.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(members) != 1:
            raise AlignError(f"{path}: expected an archive of torch.save with one data.pkl, found {len(members)}")
        self._root = members[0].removesuffix("data.pkl")
        if f"{self._root}byteorder" in self._zip.namelist() and self._zip.read(f"{self._root}byteorder") != b"little":
            raise AlignError(f"{path}: expected little-endian numbers, found others; save it on another machine")
        self.content = _load(io.BytesIO(self._zip.read(members[0])), path)
        self._last: tuple[Storage, np.ndarray] | None = None  # tensors of one storage follow one another

    def read(self, storage: Storage) -> np.ndarray:
        if self._last is None or self._last[0] != storage:
            member = self._zip.getinfo(f"{self._root}data/{storage.key}")
            if member.file_size != storage.size * storage.dtype.itemsize:
                raise ValueError(f"storage {storage.key} has {member.file_size} bytes for {storage.size} numbers")
            self._last = storage, np.frombuffer(self._zip.read(member), storage.dtype)
        return self._last[1]


class _Stream:
    """Pickles of a number, a version, facts of the machine, the content and the keys of storages; then the storages."""

    def __init__(self, path: Path):
        self._path = path
        with path.open("rb") as file:
            if _load(file, path) != MAGIC:
                raise AlignError(f"{path}: expected a file of torch.save, found another")
            _version, machine = _load(file, path), _load(file, path)
            if not machine.get("little_endian", True):
                raise AlignError(f"{path}: expected little-endian numbers, found others; save it on another machine")
            storages: dict[str, Storage] = {}
            self.content = _load(file, path, storages)
            self._starts = self._walk(file, _load(file, path), storages)

    def _walk(self, file: BinaryIO, keys: list[str], storages: Mapping[str, Storage]) -> dict[str, int]:
        """Key -> the byte where a storage begins: each has its count of numbers, then the numbers."""
        starts, size = {}, self._path.stat().st_size
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            starts[key] = file.tell()
            end = file.tell() + count * storages[key].dtype.itemsize
            if count != storages[key].size or end > size:
                raise ValueError(f"storage {key} has no {storages[key].size} numbers")
            file.seek(end)
        return starts

    def read(self, storage: Storage) -> np.ndarray:
        start = self._starts[storage.key]
        return np.memmap(self._path, storage.dtype, "r", start, (storage.size,))


class _Known:
    """Stands for a function or a class that a pickle names; a pickle can call it and change nothing of it."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[..., Any]):
        object.__setattr__(self, "build", build)

    def __call__(self, *arguments: Any) -> Any:
        return self.build(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"attribute {name} of a function")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2, whose other arguments are for training."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor of no storage, or of negative sizes")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter."""
    return tensor


def _ordered(*arguments: Any) -> OrderedDict[Any, Any]:
    return OrderedDict(*arguments)


KNOWN = {
    ("collections", "OrderedDict"): _Known(_ordered),
    ("torch._utils", "_rebuild_tensor_v2"): _Known(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Known(_parameter),
    ("torch", "Size"): _Known(tuple),
} | {("torch", name): name for name in DTYPES}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path, storages: dict[str, Storage] | None):
        super().__init__(file)
        self._path, self._storages = path, storages

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name."""
        if (module, name) not in KNOWN:
            raise AlignError(
                f"{self._path}: expected tensors alone, found {module}.{name}, which is not run; save the state_dict "
                "alone, best as safetensors"
            )
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """Of ('storage', dtype, key, device, count), and in a stream the part of another storage that it is."""
        kind, numbers, key, _device, count, *view = pid
        if kind != "storage" or numbers not in DTYPES or not isinstance(key, str) or any(view):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        if type(count) is not int or count < 0:
            raise pickle.UnpicklingError(f"a storage of {count} numbers")
        found = Storage(key, DTYPES[numbers], count)
        if self._storages is not None:
            self._storages[key] = found
        return found


def _load(file: BinaryIO, path: Path, storages: dict[str, Storage] | None = None) -> Any:
    return _Unpickler(file, path, storages).load()
