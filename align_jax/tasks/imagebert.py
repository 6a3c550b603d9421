"""ImageBERT: masked words, masked regions and matching, in one pass over pairs (Qi et al. 2020, arXiv 2001.07966).

Facts: ImageBERT sections 1 to 4. The masked losses count in rows whose image and text belong together alone.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import cross_encoder, towers
from align_jax.config import Config, call
from align_jax.cross_encoder_task import CrossEncoderTask
from align_jax.losses import masked
from align_jax.models.blocks import ALL
from align_jax.models.randomness import fold
from align_jax.models.region_masking import hide
from align_jax.types import AlignError, Batch, Mean, ModelState, Params

EXAMPLES = "masked"
OVER = ("numbers", "regions")  # what the distance of features is a mean over


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageBertTask(CrossEncoderTask):
    """The pre-training task, whose losses are mlm, moc, mrfr and itm."""

    predictions: int  # M: words of a text that are predicted, at most
    hidden: float  # share of the regions that are predicted
    zeroed: float  # share of those whose features are hidden
    positives_only: bool  # the masked losses do not count where image and text do not belong together
    soft: bool  # classes are the detector's distributions
    over: str  # of OVER

    def check(self, rows: int) -> None:
        """Whole groups of BatchNorm in each micro-batch of each device."""
        self.encoder.check(rows)

    def chance(self, rows: int) -> float | None:
        """All words, all classes and both answers alike; None with a loss on features, of which nothing is known."""
        if self.weights["mrfr"] or self.soft:
            return None
        classes = max(self.encoder.model.classes, 1)
        return (
            self.weights["mlm"] * math.log(self.encoder.vocab_size)
            + self.weights["moc"] * math.log(classes)
            + self.weights["itm"] * math.log(2)
        )

    def sums(self, params: Params, model_state: ModelState, rows: Batch) -> tuple[dict[str, Mean], ModelState]:
        """Sums over some rows, and the model state after them."""
        encoder = self.encoder
        visual, new_state = encoder.see(
            params, model_state, rows, train=encoder.batch_statistics, keys=fold(rows["key"], 0)
        )
        keys = fold(rows["key"], 1)
        assert keys is not None, "training has row keys"
        hidden, zeroed = hide(
            visual.present & rows["hides_regions"][:, None], keys, share=self.hidden, zeroed=self.zeroed
        )
        out: Any = encoder.model.apply(
            {"params": params, **model_state}, visual, rows["text_ids"], rows["text_mask"], rows["word_positions"],
            zeroed=zeroed, keys=fold(rows["key"], 2), method="predict",
        )  # fmt: skip
        counted = rows["match"] if self.positives_only else jnp.ones_like(rows["match"])
        found = {}
        found["itm"], found["itm_accuracy"] = masked.matching(out.match, rows["match"])
        if out.words is not None:
            found["mlm"], found["mlm_accuracy"] = masked.masked_words(out.words, rows["word_labels"], counted)
        if out.classes is not None:
            found["moc"], found["moc_accuracy"] = self._classes(out.classes, rows, hidden, counted)
        if out.features is not None:
            target = jax.lax.stop_gradient(visual.features)
            found["mrfr"] = masked.masked_features(out.features, target, hidden, counted, over=self.over)
        return found, new_state

    def _classes(self, logits: jax.Array, rows: Batch, hidden: jax.Array, counted: jax.Array) -> tuple[Mean, Mean]:
        if self.soft:
            return masked.masked_distributions(logits, rows["region_probabilities"], hidden, counted)
        return masked.masked_classes(logits, rows["region_labels"], hidden, counted)

    def dummy_batch(self, batch_size: int) -> dict[str, np.ndarray]:
        """Random rows, half of them pairs."""
        rng = np.random.default_rng(1)
        shape = (batch_size, self.predictions)
        rows = self.encoder.dummy_rows(batch_size) | {
            "word_positions": rng.integers(1, self.encoder.text_length - 1, shape, np.int32),
            "word_labels": rng.integers(0, self.encoder.vocab_size, shape, np.int32),
            "match": np.arange(batch_size) % 2 == 0,
            "hides_regions": np.ones(batch_size, bool),
        }
        if self.soft:
            logits = rng.normal(size=(*rows["region_labels"].shape, self.encoder.model.classes))
            rows["region_probabilities"] = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            rows["region_probabilities"] = rows["region_probabilities"].astype(np.float32)
        return rows


def build(
    *,
    mlm: float = 1.0,
    moc: float = 1.0,
    mrfr: float = 1.0,
    itm: float = 1.0,
    hidden: float = 0.15,
    zeroed: float = 0.9,
    positives_only: bool = True,
    over: str = "numbers",
    predictions: int,
    encoder: Mapping[str, Any],
    sizes: Mapping[str, Any],
) -> ImageBertTask:
    """The task of `config.task`, besides what `cross_encoder.build` takes of it.

    Args:
      mlm, moc, mrfr, itm: weights of masked words, masked object classes, masked region features and matching; without
        a weight there is no head.
      hidden: share of an image's regions that are predicted. zeroed: of those, the share whose features are hidden.
      positives_only: the masked losses count only where image and text belong together.
      over: of OVER: the distance of features is a mean over all numbers, or over regions, each of them a sum, as the
        paper has it.
      predictions: words of a text that are predicted, at most, as the data says. encoder: the other keys.
      sizes: what `cross_encoder.build` needs of the data.
    """
    towers.one_of("over", over, OVER)
    weights = {"mlm": mlm, "moc": moc, "mrfr": mrfr, "itm": itm}
    if min(weights.values()) < 0 or not any(weights.values()) or not 0 < hidden < 1 or not 0 <= zeroed <= 1:
        raise AlignError(
            "config.task: expected weights mlm, moc, mrfr and itm of at least 0, not all of them 0, 0 < hidden < 1 and "
            f"0 <= zeroed <= 1, found {', '.join(f'{name}={value}' for name, value in weights.items())}, "
            f"hidden={hidden} and zeroed={zeroed}"
        )
    regions = sizes["regions"] or {}
    classes = regions.get("classes", 0)
    if moc and not classes:
        raise AlignError(
            "config.task.moc: expected 0 without classes of regions (config.data.regions.classes), which a detector "
            f"gives, found {moc}; set --config.task.moc=0"
        )
    heads = {"classes": classes if moc else 0, "words": bool(mlm), "features": bool(mrfr)}
    found = call(cross_encoder.build, encoder, where="config.task", heads=heads, **sizes)
    tower: Any = found.model.image_tower
    if mrfr and tower is not None and tower.locked != ALL:
        raise AlignError(
            "config.task.mrfr: expected 0 with an image tower that trains, which would make its own features easy to "
            f"predict, found {mrfr}; set it to 0, or --config.task.image.locked={ALL}"
        )
    return ImageBertTask(
        encoder=found, weights=weights, predictions=predictions, hidden=hidden, zeroed=zeroed,
        positives_only=positives_only, soft=bool(moc) and regions.get("soft", False), over=over,
    )  # fmt: skip


OWN = ("mlm", "moc", "mrfr", "itm", "hidden", "zeroed", "positives_only", "over")


def make(config: Config) -> ImageBertTask:
    """The task of a whole config."""
    task, sizes = cross_encoder.given(config)
    own = {key: task.pop(key) for key in OWN if key in task}
    predictions = config.data.masking.get("predictions", 16)
    return call(build, own, where="config.task", predictions=predictions, encoder=task, sizes=sizes)


def tiny() -> ImageBertTask:
    """The smallest model with every part in it, dropout on, for the contract tests."""
    return build(
        predictions=2,
        encoder={"text": {"size": "tiny", "layers": 1, "width": 32, "heads": 2, "mlp_width": 64, "dropout": 0.1},
                 "global_feature": True},
        sizes={"regions": {"width": 12, "classes": 5, "most": 6}, "image_size": None, "text_length": 8,
               "vocab_size": 64},
    )  # fmt: skip
