"""Crisscrossed Captions (Parekh et al. 2021): what people find similar among the images and captions of COCO.

Retrieval within and between the two, and correlation of the scores with people's ratings (facts: ALIGN section 7).

Right are COCO's own pairs (a caption and its image, two captions of an image) and pairs rated at least 3, of two images
2.5. Correlation is Spearman's, bootstrapped: one rated partner each for half of the queries, 1000 times. Queries are
captions for STS, and images for SIS and SITS: that many pairs give the spreads of ALIGN's table 3.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align_jax import provenance
from align_jax.evals import statistics
from align_jax.evals.correlation import spearman
from align_jax.evals.crisscrossed_ratings import TASKS, bootstrap, queries, read, right_answers
from align_jax.evals.embedding import Embedder, protocol_of
from align_jax.evals.panels import Curves
from align_jax.evals.ranking import AT, Asked, measures, ranks, recall_curve
from align_jax.evals.statistics import digest
from align_jax.types import AlignError, Evaluator, ModelState, Outcome, Params, Result

DRAWS = 1000


class Crisscrossed(Evaluator):
    """R@K and median rank in four ways, and the correlations sts, sis and sits with their mean."""

    needs = ("embed_images", "embed_texts")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, source: dict, csv: str, split: str,
        at: Sequence[int] = AT, seed: int = 0,
    ):  # fmt: skip
        """`source`: COCO's images of Karpathy's `split`, val or test, with file names as ids and with ids of the texts:
        coco_karpathy with id "image/filename" and text_ids "sentence_ids". `csv`: the folder of sts_<split>.csv,
        sis_<split>.csv and sits_<split>.csv. `at`: the K of recall@K. `seed` of the bootstrap.
        """
        if split not in ("val", "test") or not at or min(at) < 1:
            raise AlignError(
                f"evals.{name}: expected split val or test and `at` above 0, found {split!r} and {tuple(at)}"
            )
        self._embedder, self._name, self._at, self._seed = embedder, name, tuple(at), seed
        self._source = embedder.open(source)
        self._rated = read(self._source, Path(csv), split, where=f"evals.{name}")
        self._right = right_answers(self._rated)
        self._ids = digest(
            [*self._rated.images, *self._rated.captions]
            + [str(part.tolist()) for ratings in self._rated.ratings.values() for part in ratings]
        )
        unnamed = f" ({self._rated.unnamed} captions that no rating names are left out)" if self._rated.unnamed else ""
        crop = embedder.pairs.view.protocol
        self._protocol = f"{protocol_of(source)}{unnamed}, Crisscrossed Captions {split}, {crop}"
        self._facts = {"data": provenance.digest(self._source), "ratings": self._ids, "crop": crop}
        self._ways: dict[str, tuple[Asked, int]] = {}  # with the number of candidates

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """<way>/R@K and <way>/median_rank; sts, sis, sits, the spread of each over its draws, and mean_correlation."""
        images, bad = self._embedder.images(params, model_state, self._source)
        records = np.array(list(self._rated.images.values()))
        if unreadable := sorted(set(records.tolist()) & set(bad)):
            raise AlignError(
                f"evals.{self._name}: expected all {len(records):,} images, found {len(unreadable):,} that cannot be "
                f"read, as {self._source.about(unreadable[0]).id} ({bad[unreadable[0]]}); build the data set again"
            )
        captions = self._embedder.texts(params, model_state, list(self._rated.captions.values()))
        rows = {"image": images[records], "caption": captions}
        yield from self._retrieval(rows)
        yield from self._correlation(rows)

    def panels(self) -> Iterator[Any]:
        """Recall against K."""
        if self._ways:
            lines = {way.replace("_", " "): recall_curve(*found) for way, found in self._ways.items()}
            yield Curves(f"{self._name}: recall against K", "K among all candidates", "K", "recall@K", lines)

    def _retrieval(self, rows: Mapping[str, np.ndarray]) -> Iterator[Result]:
        images, captions, mesh = rows["image"], rows["caption"], self._embedder.mesh
        own = np.arange(len(images))
        text_to_image, image_to_text = ranks(mesh, captions, images, self._right["sits"])
        image_to_image, _ = ranks(mesh, images, images, self._right["sis"], _with_itself(images))
        text_to_text, _ = ranks(mesh, captions, captions, self._right["sts"], _with_itself(captions))
        self._ways = {
            "image_to_text": (Asked.of(image_to_text, own), len(captions)),
            "text_to_image": (Asked.of(text_to_image, self._rated.owners), len(images)),
            "image_to_image": (Asked.of(image_to_image, own), len(images) - 1),
            "text_to_text": (Asked.of(text_to_text, self._rated.owners), len(captions) - 1),
        }
        for way, (asked, candidates) in self._ways.items():
            protocol = (
                f"{self._protocol}: {len(asked.ranks)} queries x {candidates} candidates, right are COCO's pairs and "
                "those rated at least 3 (two images 2.5), ties pessimistic"
            )
            ids = f"{way} {self._ids}"
            yield from measures(f"{self._name}/{way}", asked, self._at, ids=ids, protocol=protocol, facts=self._facts)

    def _correlation(self, rows: Mapping[str, np.ndarray]) -> Iterator[Result]:
        found = []
        for task, ratings in self._rated.ratings.items():
            first, second = (rows[side][ratings.pairs[:, i]] for i, side in enumerate(TASKS[task].sides))
            scores = np.einsum("nd,nd->n", first, second)
            asked, rated = queries(task, ratings)
            drawn = [
                spearman(scores[part], ratings.scores[part]) for part in bootstrap(asked, rated, DRAWS, self._seed)
            ]
            drawn = np.nan_to_num(np.concatenate(drawn))  # equal scores order nothing
            found.append(drawn)
            protocol = (
                f"{self._protocol}: Spearman's correlation, mean of {DRAWS} draws (seed {self._seed}) of a rated "
                f"partner each for half of {len(np.unique(asked))} queries"
            )
            outcome = Outcome(drawn.astype(np.float32), kind="draws", ids=f"{task} {self._seed} {self._ids}")
            yield Result(f"{self._name}/{task}", float(drawn.mean()), len(scores), protocol, outcome, self._facts)
            spread = f"{protocol}: standard deviation"
            yield Result(f"{self._name}/{task}_std", float(drawn.std()), len(scores), spread, facts=self._facts)
        mean = Outcome(np.mean(found, axis=0).astype(np.float32), kind="draws", ids=f"mean {self._seed} {self._ids}")
        protocol = f"{self._protocol}: mean of sts, sis and sits"
        count = sum(len(ratings.scores) for ratings in self._rated.ratings.values())
        value = statistics.estimate(mean)
        yield Result(f"{self._name}/mean_correlation", value, count, protocol, mean, self._facts)


def _with_itself(rows: np.ndarray) -> np.ndarray:
    return np.stack([np.arange(len(rows))] * 2, axis=1)
