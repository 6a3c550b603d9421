"""Position tables of other lengths: only ever changed when asked, and the change is a fact of the model."""

import dataclasses

import numpy as np

from align_jax import paths, towers
from align_jax.interop.pretrained import Pretrained
from align_jax.types import AlignError

TABLE = "text_tower/position_embedding/embedding"


def resize_positions(model: Pretrained, max_length: int) -> Pretrained:
    """The model with a text tower for texts of at most `max_length` pieces.

    A shorter table is the beginning of the one that was trained, so that short texts give the same vectors. A longer
    one is that table stretched, linearly interpolated with both ends in place: a guess, to be trained on. Rows before
    the first position (`Bert.position_offset`) stay. AlignError where there is no text tower.
    """
    if "text" not in model.task:
        raise AlignError(f"{model.where}: expected a text tower, whose positions can be resized, found none")
    if max_length < 3:
        raise AlignError(f"max_length: expected at least 3 pieces, two special ones among them, found {max_length}")
    tower = towers.text_tower(model.task["text"], vocab_size=model.data["vocab"]["size"])
    if max_length == tower.max_length:
        return model
    flat = paths.flatten(model.params)
    before, table = np.split(np.asarray(flat[TABLE]), [tower.position_offset])
    if max_length < len(table):
        found, fact = table[:max_length], f"the first {max_length} of {len(table)}"
    else:
        found, fact = _stretched(table, max_length), f"{max_length}, interpolated linearly from {len(table)}"
    flat[TABLE] = np.concatenate([before, found])
    task = {**model.task, "text": {**model.task["text"], "max_length": max_length}}
    facts = {**model.facts, "text_positions": fact}
    return dataclasses.replace(model, params=paths.unflatten(flat), task=task, facts=facts)


def _stretched(table: np.ndarray, rows: int) -> np.ndarray:
    """Table [P, width] at `rows` places spread evenly from its first to its last row, in its dtype."""
    places = np.linspace(0, len(table) - 1, rows)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, len(table) - 1)
    share = (places - low)[:, None]
    return (table[low] * (1 - share) + table[high] * share).astype(table.dtype)
