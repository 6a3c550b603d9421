"""What tasks learn from: examples made of records, by kind. A task names its kind, `config.data` has its options."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from align_jax.data import labelled, masked, pairs, ranked
from align_jax.data.source import Record
from align_jax.data.views import View


class Examples(Protocol):
    """One kind, with its options."""

    @property
    def view(self) -> View:
        """How it sees pictures."""
        ...

    @property
    def protocol(self) -> str:
        """What the model is shown of an image in evaluation, in words."""
        ...

    @property
    def reads(self) -> Mapping[str, str]:
        """Digests of what is read besides the source, by name: a run that goes on must find the same."""
        ...

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A row of a training batch. BadExample where the record cannot be used."""
        ...

    def image(self, image: Any) -> np.ndarray:
        """The square for evaluation and inference, uint8 [H, H, 3]."""
        ...

    def visual(self, item: Any) -> dict[str, np.ndarray]:
        """What the model is shown of a record, or of a picture alone, in evaluation and inference: a row of its inputs.

        BadExample where it cannot be.
        """
        ...

    def blank(self) -> dict[str, np.ndarray]:
        """The same of nothing, in place of what cannot be shown."""
        ...

    def texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """What the model reads of texts, row by row. AlignError where it reads none."""
        ...

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        """Name -> what writes it: files without which a run or an export cannot be used."""
        ...

    def preprocessing(self) -> dict[str, Any]:
        """`image` and `texts` for other programs."""
        ...


# Made of the training source, or None, of the run's folder, and of their own keys of `config.data`.
KINDS: dict[str, Callable[..., Examples]] = {
    "pairs": pairs.make, "labelled": labelled.make, "masked": masked.make, "ranked": ranked.make,
}  # fmt: skip
