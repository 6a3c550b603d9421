"""What a dual encoder proposes for a cross-encoder to re-rank, and what that makes of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from align_jax.evals.embedding import Embedder
from align_jax.evals.features import FeatureCache
from align_jax.evals.pair_scores import PairScores
from align_jax.evals.pools import Pool
from align_jax.evals.shortlist import Shortlist, shortlists
from align_jax.types import AlignError, ModelState, Params
from align_jax.weights import digest

NEEDS = ("embed_images", "embed_texts")


class Loaded(Protocol):
    """A model in use: `align_jax.model.Model`."""

    functions: tuple[str, ...]
    mesh: jax.sharding.Mesh
    embedder: Embedder
    params: Params
    model_state: ModelState


class Proposals(NamedTuple):
    """A dual encoder's embeddings of a source's images and of its distinct texts."""

    images: np.ndarray  # f32 [n, D]
    texts: np.ndarray  # f32 [m, D]
    bad: Mapping[int, str]  # images that it cannot read
    weights: str  # the digest of the model's

    def shortlists(self, mesh: jax.sharding.Mesh, pool: Pool, k: int) -> tuple[Shortlist, Shortlist]:
        """The `k` best texts of each image of a pool, and the `k` best images of each text."""
        return shortlists(mesh, self.images[pool.images], self.texts[pool.texts], pool.right, k)


def check(model: Loaded, *, where: str) -> None:
    """Refuses a model that is no dual encoder."""
    missing = [name for name in NEEDS if name not in model.functions]
    if missing:
        raise AlignError(f"{where}: expected a dual encoder, with {missing[0]}; found {sorted(model.functions)}")


def propose(model: Loaded, options: Mapping[str, Any], texts: Sequence[str], *, folder: Path) -> Proposals:
    """Embeds the source of `options`, and texts. What was made of the images before lies in <folder>/features."""
    with jax.set_mesh(model.mesh):
        images, bad = FeatureCache(model.embedder, folder / "features").images(
            model.params, model.model_state, options
        )  # fmt: skip
        rows = model.embedder.texts(model.params, model.model_state, texts)
        return Proposals(images, rows, bad, digest(model.params, model.model_state))


def score(scores: PairScores, pool: Pool, lists: tuple[Shortlist, Shortlist]) -> tuple[np.ndarray, np.ndarray]:
    """The cross-encoder's scores f32 [Q, K] of the candidates of both shortlists of a pool; a pair is scored once."""
    asked = pairs(lists, max(own.longest for own in lists))
    records = np.stack([pool.images[asked[:, 0]], pool.texts[asked[:, 1]]], axis=1)
    forth, back = np.split(scores.some(records), [lists[0].candidates.size])
    return forth.reshape(lists[0].candidates.shape), back.reshape(lists[1].candidates.shape)


def pairs(lists: tuple[Shortlist, Shortlist], k: int) -> np.ndarray:
    """int64 [P, 2]: (image, text), by their places, of the first `k` of both shortlists."""
    return np.concatenate([lists[0].pairs(k), lists[1].pairs(k)[:, ::-1]])


def how(path: str, proposed: Proposals, *, k: int, fusion: float) -> str:
    """What a protocol says of the ranking."""
    return f"the {k} best of the dual encoder {path} (weights {proposed.weights}) re-ranked, fusion {fusion:g}, "
