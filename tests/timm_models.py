"""timm without torchvision, which it asks for as it is imported and which no network here uses."""

import enum
import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

MODES = ("NEAREST", "NEAREST_EXACT", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")
Modes = enum.Enum("InterpolationMode", {name: name.lower() for name in MODES})


class Stub(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Any module of torchvision, with any class in it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        own = fullname.split(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if own else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        class Module(types.ModuleType):
            def __getattr__(self, name: str) -> type:
                if name.startswith("__"):
                    raise AttributeError(name)
                return Modes if name == "InterpolationMode" else type(name, (), {})

        return Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing runs."""


def timm() -> types.ModuleType:
    """The library: five seconds of importing."""
    sys.meta_path.insert(0, Stub())
    try:
        import timm as library

        return library
    finally:
        sys.meta_path.pop(0)
