"""PyTorch where it is there: the adapters alone need it, for the tensors that their callers want."""

from typing import Any

from align_jax.types import AlignError


def pytorch() -> Any:
    """The module. AlignError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise AlignError(
            "adapters: expected PyTorch, whose tensors the caller wants, found none; run: pip install torch"
        ) from error
    return torch
