"""What is exported: some functions of a model, with the weights as they are stored."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from align_jax import compact, paths, tasks
from align_jax import config as configs
from align_jax.config import Config, nearest
from align_jax.run import Run
from align_jax.types import AlignError, Batch, ModelState, Params
from align_jax.weights import Weights

Rows = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # name of an input -> its rows; rows f32 [B, D]


# What a function takes of a row: of the image, the visual tokens that `image_tokens` makes of it, or the text.
READS = {
    **dict.fromkeys(("embed_images", "image_features", "classify_images", "image_tokens"), ("visual",)),
    **dict.fromkeys(("embed_texts", "text_features"), ("text",)),
    "score_pairs": ("visual", "text"),
    "score_tokens": ("tokens", "text"),
}
# Of a function that looks at one tower alone, how the other's parameters begin.
OTHER = {
    **dict.fromkeys(("embed_images", "image_features", "classify_images"), "text_"),
    **dict.fromkeys(("embed_texts", "text_features"), "image_"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model that is to be exported.

    Attributes:
      functions: those that are exported, of the `known` ones.
      known: name -> (params, model_state, inputs) -> rows, as the task gives them.
      exact: the weights as they were trained.
      kind: of `compact.KINDS`, as which they are stored.
      dtype: in which the towers compute.
      platforms: of jax, that a program is for.
    """

    parts: Run
    functions: Mapping[str, Callable[[Params, ModelState, Batch], jax.Array]]
    known: Mapping[str, Callable[[Params, ModelState, Batch], jax.Array]]
    exact: Weights
    kind: str
    dtype: str
    platforms: tuple[str, ...]

    @functools.cached_property
    def stored(self) -> dict[str, np.ndarray]:
        """Name -> array of what goes to disk: 'params/image_tower/.../kernel', for int8 with the scales beside."""
        return compact.pack(flat(self.exact.params, self.exact.model_state), self.kind)

    @functools.cached_property
    def restored(self) -> Weights:
        """The weights as whoever loads them has them."""
        params, model_state = split(compact.unpack(self.stored, self.kind))
        return dataclasses.replace(self.exact, params=params, model_state=model_state)

    def inputs(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        """The name, shape and dtype of one row of each input of a function."""
        found: dict[str, jax.ShapeDtypeStruct] = {}
        for kind in READS[name]:
            if kind == "visual":
                blank = self.parts.pairs.blank()
                found |= {key: jax.ShapeDtypeStruct(value.shape, value.dtype) for key, value in blank.items()}
            elif kind == "tokens":
                found["tokens"] = self.output("image_tokens")
            else:
                length = self.parts.config.data.text_length
                found["text_ids"] = jax.ShapeDtypeStruct((length,), np.int32)
                found["text_mask"] = jax.ShapeDtypeStruct((length,), np.bool_)
        return found

    def output(self, name: str) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one row that a function gives."""
        one = {key: jax.ShapeDtypeStruct((1, *row.shape), row.dtype) for key, row in self.inputs(name).items()}
        found = jax.eval_shape(self.known[name], self.restored.params, self.restored.model_state, one)
        return jax.ShapeDtypeStruct(found.shape[1:], found.dtype)

    def program(self, name: str) -> Callable[..., jax.Array]:
        """The function of its inputs, one argument each, that holds its weights as they are stored."""

        def call(*arrays: jax.Array) -> jax.Array:
            # As arrays of jax: those of NumPy would be restored here and now, and stand in the program as f32.
            stored = {path: jnp.asarray(array) for path, array in self.used(name).items()}
            params, model_state = split(compact.unpack(stored, self.kind))
            return self.functions[name](params, model_state, dict(zip(self.inputs(name), arrays, strict=True)))

        return call

    def used(self, name: str) -> dict[str, np.ndarray]:
        """Of what is stored, what the function may look at: the program of one tower carries no other."""
        other = OTHER.get(name)
        return {
            path: array for path, array in self.stored.items()
            if other is None or not any(part.startswith(other) for part in path.split("/"))
        }  # fmt: skip

    @functools.cached_property
    def live(self) -> dict[str, Callable[[Params, ModelState, Batch], jax.Array]]:
        """The functions, compiled for this machine."""
        return {name: jax.jit(function) for name, function in self.known.items()}

    def rows(self, params: Params, model_state: ModelState) -> dict[str, Rows]:
        """What the functions give with other weights."""

        def call(name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
            return np.asarray(self.live[name](params, model_state, dict(inputs)))

        return {name: functools.partial(call, name) for name in self.functions}


def make(
    parts: Run, weights: Weights, *, functions: Sequence[str] = (), kind: str = "float32", dtype: str | None = None,
    platforms: Sequence[str] = (),
) -> Subject:  # fmt: skip
    """The model of `parts`.

    Args:
      functions: those of the task to export; by default what makes an embedding, or of a classifier its logits.
      kind: as which the weights are stored. dtype: in which the towers compute, by default as they were trained.
    """
    config: Config = ConfigDict(configs.plain(parts.config))
    for tower in ("image", "text"):
        if tower in config.task:  # both change how a step is computed, not what; neither makes a better program here
            config.task[tower].update(remat="none", scan=False)
    if dtype is not None:
        config.task.dtype = dtype
    known = tasks.make(config).functions()
    chosen = tuple(functions) or default(known)
    for name in chosen:
        if name not in known:
            raise AlignError(f"--functions: the model has no {name!r}; {nearest(name, list(known))}")
    own = {name: known[name] for name in chosen}
    return Subject(parts, own, known, weights, kind, config.task.get("dtype", "float32"), tuple(platforms))


def default(known: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a task's functions those that are exported unless others are named."""
    for whole in ("classify_images", "score_pairs"):
        if whole in known:
            return (whole,)
    return tuple(name for name in known if name.startswith("embed_"))


def flat(params: Params, model_state: ModelState) -> dict[str, np.ndarray]:
    """Stored name -> array: 'params/...', 'model_state/...'."""
    tree = paths.flatten({"params": params, "model_state": model_state})
    return {name: np.asarray(leaf) for name, leaf in tree.items()}


def split(stored: Mapping[str, Any]) -> tuple[Params, ModelState]:
    """(params, model_state) of stored names."""
    tree = paths.unflatten(stored)
    return tree["params"], tree.get("model_state", {})
