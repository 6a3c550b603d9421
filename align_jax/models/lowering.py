"""Which of its lowerings an operation takes: the one of the platform, or the one operation that others know."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax import lax

_PORTABLE = ContextVar("portable", default=False)


@contextmanager
def portable() -> Iterator[None]:
    """What is traced inside takes the default lowering on every platform, without a choice that is left open.

    For converters to other formats, which know a convolution and not the platform of the program. A function that jax
    has traced before keeps what it took then.
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def by_platform(*args: jax.Array, cpu: Callable[..., jax.Array], default: Callable[..., jax.Array]) -> jax.Array:
    """`cpu(*args)` where the program is compiled for CPU, else, and inside `portable`, `default(*args)`."""
    if _PORTABLE.get():
        return default(*args)
    return lax.platform_dependent(*args, cpu=cpu, default=default)
