"""What every form of a contrastive loss with a gradient of its own is given, and how it is differentiated."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from align_jax.losses.candidates import Marks, Rules, Scale
from align_jax.losses.objectives import Objective


class How(NamedTuple):
    """What is known before the arrays."""

    rules: Rules
    objective: Objective
    axis_names: tuple[str, ...]
    size: int  # rows that are taken at a time


def with_gradient(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """`contrast(how, image, text, scale, marks)` -> ((losses, hits) of the images here, (losses, hits) of the texts).

    `forward(how, image, text, scale, marks)` returns that and what `backward(how, kept, cotangents)` keeps of it.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def contrast(how: How, image: jax.Array, text: jax.Array, scale: Scale, marks: Marks) -> Any:
        return forward(how, image, text, scale, marks)[0]

    contrast.defvjp(forward, backward)
    return contrast
