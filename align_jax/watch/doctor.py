"""The doctor: looks at the logged numbers for what usually goes wrong in contrastive training, and names its causes."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

PATIENCE = 3  # logged rows in a row that must show a sign before it is told
EARLY = 500  # steps before which a loss at chance is nothing to speak of
NEAR_CHANCE = 0.01  # relative distance of a loss that has learnt nothing
NEAR_BOUND = 1e-3  # relative distance at which a temperature counts as being at its bound
COLLAPSED = 0.95  # mean cosine of different images (or texts) of a batch
STARVED = 0.2  # share of the time that the loop waited for data


class Sign(NamedTuple):
    """What was seen, and what it usually comes from."""

    name: str
    text: str


class Doctor:
    """Tells each sign once when it has shown in `PATIENCE` logged rows in a row, and again only after it had gone."""

    def __init__(self, *, chance: float | None, bounds: tuple[float | None, float | None] = (None, None)):
        """`chance`: the loss of a model that knows nothing; `bounds`: of the temperature; None where there is none."""
        self._chance, self._bounds = chance, bounds
        self._seen: Counter[str] = Counter()

    def examine(self, step: int, values: Mapping[str, float]) -> list[Sign]:
        """The signs that have just become certain, by the values logged for `step`."""
        told = []
        for name, look in LOOKS.items():
            text = look(self, step, values)
            self._seen[name] = self._seen[name] + 1 if text else 0
            if self._seen[name] == PATIENCE:
                told.append(Sign(name, text))
        return told

    def at_chance(self, step: int, values: Mapping[str, float]) -> str:
        """A loss that stands where it would if images had nothing to do with their texts, or their labels."""
        if self._chance is None or step < EARLY or not math.isfinite(values["loss"]):
            return ""
        if abs(values["loss"] / self._chance - 1) > NEAR_CHANCE:
            return ""
        return (
            f"loss {values['loss']:.3f} is that of guessing ({self._chance:.3f}): look whether the texts, or labels, "
            "belong to their images, then at the learning rate (too high collapses at once, too low never starts) and "
            "the warm-up"
        )

    def at_bound(self, step: int, values: Mapping[str, float]) -> str:
        """A temperature that wants to go on, and may not."""
        temperature = values.get("temperature")
        if temperature is None:
            return ""
        causes = ("too many pairs alike, or too few pairs", "texts that are mostly noise")
        for bound, cause in zip(self._bounds, causes, strict=True):
            if bound is not None and abs(temperature / bound - 1) < NEAR_BOUND:
                return (
                    f"temperature {temperature:.4g} stands at its bound: usually {cause}; look at duplicates "
                    "(--config.task.duplicates=ignored), then at --config.optim.bounds"
                )
        return ""

    def collapsed(self, step: int, values: Mapping[str, float]) -> str:
        """Embeddings that all point one way."""
        for side in ("image", "text"):
            cosine = values.get(f"{side}_cosine", 0.0)
            if cosine > COLLAPSED:
                return (
                    f"the {side} embeddings of a batch are nearly one (mean cosine {cosine:.3f}): usually a learning "
                    "rate too high or a warm-up too short; go back to an earlier checkpoint with half the rate"
                )
        return ""

    def starved(self, step: int, values: Mapping[str, float]) -> str:
        """Devices that wait for the host."""
        share = values.get("data_wait", 0.0)
        if share < STARVED:
            return ""
        return (
            f"data is the bottleneck: the loop waited for it {share:.0%} of the time; raise --config.data.threads, "
            "store the pictures at the size of data.resize (python -m align_jax.curate), or look at disk and network"
        )


LOOKS: dict[str, Callable[[Doctor, int, Mapping[str, float]], str]] = {
    "loss at chance": Doctor.at_chance,
    "temperature at its bound": Doctor.at_bound,
    "embeddings collapsed": Doctor.collapsed,
    "data starvation": Doctor.starved,
}
