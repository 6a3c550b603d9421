"""The seam: `config.task.name = 'align'` means `align_jax.tasks.align.make(config)`. A new family is one file here.

It has EXAMPLES, what the task learns from, `make`, and `tiny` for the tests of every task.
"""

import importlib
import pkgutil
from typing import Any

from align_jax.config import Config
from align_jax.types import AlignError, Task


def names() -> tuple[str, ...]:
    """Every task there is: the modules of this folder."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def make(config: Config) -> Task:
    """The task of a whole config."""
    return _module(config).make(config)


def examples(config: Config) -> str:
    """What the task of a config learns from, of `data.examples.KINDS`."""
    return _module(config).EXAMPLES


def _module(config: Config) -> Any:
    if config.task.name not in names():
        raise AlignError(f"config.task.name: expected one of {names()}, found {config.task.name!r}")
    return importlib.import_module(f"align_jax.tasks.{config.task.name}")
