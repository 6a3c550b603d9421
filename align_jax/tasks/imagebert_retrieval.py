"""ImageBERT fine-tuned for retrieval: each pair scored against pairs that do not belong together.

Qi et al. 2020 (arXiv 2001.07966), section 4.4; facts: ImageBERT section 6. Nothing is masked.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import cross_encoder, towers
from align_jax.config import Config, call
from align_jax.cross_encoder import VISUAL
from align_jax.cross_encoder_task import CrossEncoderTask
from align_jax.data import ranked
from align_jax.data.ranked import Places
from align_jax.losses import ranking
from align_jax.models.randomness import fold
from align_jax.types import AlignError, Batch, Mean, ModelState, Params

EXAMPLES = "ranked"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageBertRetrievalTask(CrossEncoderTask):
    """The fine-tuning task, whose losses are binary, multi_class and triplet.

    A row has I images and T texts, in place 0 of each those that belong together: binary is a mean over all pairs,
    multi_class and triplet over the rankings of all rows, of the images for a text and of the texts for an image alike.
    """

    margin: float  # of the triplet loss
    places: Places  # I and T

    def check(self, rows: int) -> None:
        """Whole rows, and whole groups of their images for BatchNorm, in each micro-batch of each device."""
        towers.check_rows(rows, group=1, micro_batches=self.encoder.micro_batches)
        self.encoder.check(rows * self.places.images)

    def chance(self, rows: int) -> float:
        """The loss of a model that knows how many pairs belong together, and not which."""
        images, texts = self.places
        share = 1 / (images + texts - 1)
        ways = [count for count in self.places if count > 1]
        each = {
            "binary": -share * math.log(share) - (1 - share) * math.log(1 - share),
            "multi_class": sum(map(math.log, ways)) / len(ways),
            "triplet": self.margin,
        }
        return sum(self.weights[name] * each[name] for name in self.weights)

    def sums(self, params: Params, model_state: ModelState, rows: Batch) -> tuple[dict[str, Mean], ModelState]:
        """Sums over some rows, and the model state after them."""
        scores, new_state = self._scores(params, model_state, rows)
        images, texts = self.places
        of_image, of_text = scores[:, :texts], jnp.concatenate([scores[:, :1], scores[:, texts:]], axis=1)
        tables = {}
        if texts > 1:
            tables["image_to_text"] = of_image
        if images > 1:
            tables["text_to_image"] = of_text
        losses = {
            "binary": [ranking.binary(scores)],  # the right pair, which every table has, counts once
            "multi_class": [ranking.multi_class(table) for table in tables.values()],
            "triplet": [ranking.triplet(table, margin=self.margin) for table in tables.values()],
        }
        found = {f"{way}_accuracy": ranking.accuracy(table) for way, table in tables.items()}
        return found | {name: functools.reduce(Mean.merge, losses[name]) for name in self.weights}, new_state

    def _scores(self, params: Params, model_state: ModelState, rows: Batch) -> tuple[jax.Array, ModelState]:
        """(f32 [B, T + I - 1], the model state after them): the row's image with all texts, then its text with all
        other images. An image is seen once, whatever the texts it is read with.
        """
        encoder, (images, texts) = self.encoder, self.places
        variables = {"params": params, **model_state}
        shown = {name: rows[name].reshape(-1, *rows[name].shape[2:]) for name in VISUAL if name in rows}
        visual, new_state = encoder.see(
            params, model_state, shown, train=encoder.batch_statistics, keys=_keys(rows["key"], 0, images)
        )
        made: Any = encoder.model.apply(variables, visual, keys=_keys(rows["key"], 1, images), method="tokens")
        image_of = np.array([0] * texts + list(range(1, images)))
        text_of = np.array([*range(texts)] + [0] * (images - 1))

        def pairs(values: jax.Array, count: int, of: np.ndarray) -> jax.Array:
            rows = values.reshape(-1, count, *values.shape[1:])
            return rows[:, of].reshape(-1, *values.shape[1:])

        tokens, present = (pairs(values, images, image_of) for values in made)
        ids, mask = (rows[name][:, text_of].reshape(-1, rows[name].shape[-1]) for name in ("text_ids", "text_mask"))
        scores: Any = encoder.model.apply(
            variables, tokens, present, ids, mask, keys=_keys(rows["key"], 2, len(image_of)), method="score"
        )
        return scores.astype(jnp.float32).reshape(-1, len(image_of)), new_state

    def dummy_batch(self, batch_size: int) -> dict[str, np.ndarray]:
        """Random rows."""
        images, texts = self.places
        count = max(images, texts)
        rows = self.encoder.dummy_rows(batch_size * count)
        rows = {name: values.reshape(batch_size, count, *values.shape[1:]) for name, values in rows.items()}
        return {name: values[:, : texts if name.startswith("text_") else images] for name, values in rows.items()}


def _keys(keys: jax.Array, site: int, count: int) -> jax.Array:
    """[B * count] keys of the places of each row, of those [B] of the rows."""
    places: list[Any] = [fold(fold(keys, site), place) for place in range(count)]
    return jnp.stack(places, axis=1).reshape(-1)


def build(
    *,
    binary: float = 1.0,
    multi_class: float = 0.0,
    triplet: float = 0.0,
    margin: float = 0.2,
    places: Places,
    encoder: Mapping[str, Any],
    sizes: Mapping[str, Any],
) -> ImageBertRetrievalTask:
    """The task of `config.task`, besides what `cross_encoder.build` takes of it.

    Args:
      binary, multi_class, triplet: weights of the losses (`losses/ranking.py`); one without a weight is not computed.
      margin: of the triplet loss, in units of the score; 0.2 as in UNITER, for the paper does not say.
      places: of a row, as the data says. encoder: the other keys. sizes: what `cross_encoder.build` needs of the data.
    """
    weights = {"binary": binary, "multi_class": multi_class, "triplet": triplet}
    if min(weights.values()) < 0 or not any(weights.values()) or margin < 0:
        raise AlignError(
            "config.task: expected weights binary, multi_class and triplet of at least 0, not all of them 0, and a "
            f"margin of at least 0, found {', '.join(f'{name}={value}' for name, value in weights.items())} and "
            f"margin={margin}"
        )
    heads = {"classes": 0, "words": False, "features": False}
    found = call(cross_encoder.build, encoder, where="config.task", heads=heads, **sizes)
    used = {name: weight for name, weight in weights.items() if weight}
    return ImageBertRetrievalTask(encoder=found, weights=used, margin=margin, places=places)


OWN = ("binary", "multi_class", "triplet", "margin")


def make(config: Config) -> ImageBertRetrievalTask:
    """The task of a whole config."""
    task, sizes = cross_encoder.given(config)
    own = {key: task.pop(key) for key in OWN if key in task}
    said = {key: config.data[key] for key in ("candidates", "directions") if key in config.data}
    places = call(ranked.places, said, where="config.data")
    return call(build, own, where="config.task", places=places, encoder=task, sizes=sizes)


def tiny() -> ImageBertRetrievalTask:
    """The smallest model with every loss and both directions, dropout on, for the contract tests."""
    return build(
        multi_class=1.0, triplet=1.0, places=ranked.places(candidates=3),
        encoder={"text": {"size": "tiny", "layers": 1, "width": 32, "heads": 2, "mlp_width": 64, "dropout": 0.1}},
        sizes={"regions": {"width": 12, "most": 6}, "image_size": None, "text_length": 8, "vocab_size": 64},
    )  # fmt: skip
