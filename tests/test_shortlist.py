"""Retrieve, then re-rank: by hand, at the ends of fusion, and with many ties."""

import numpy as np
import pytest
from known_cross_encoder import results
from known_model import write_pairs

from align_jax import sharding
from align_jax.evals.shortlist import fused, reranked, shortlists


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 24, 2)


def lists(images, texts, right, k, devices=1):
    return shortlists(sharding.make_mesh(devices=devices), images, texts, right, k)


def test_a_worked_example():
    """One query, five candidates; the dual encoder orders them 0, 1, 2, 3, 4."""
    query = np.array([[1.0, 0.0]], np.float32)
    candidates = np.array([[0.9, 0], [0.8, 0], [0.6, 0], [0.5, 0], [0.1, 0]], np.float32)
    forth, back = lists(query, candidates, np.array([[0, 2]]), 3)
    assert forth.candidates.tolist() == [[0, 1, 2]] and forth.ranks.tolist() == [2]
    assert forth.dual.tolist() == np.float32([[0.9, 0.8, 0.6, 0.5]]).tolist()
    assert forth.right.tolist() == [[False, False, True]]
    cross = np.array([[1.0, 2.0, 3.0]], np.float32)
    # Three equal steps are -1.22, 0, 1.22 in standard deviations; 0.9, 0.8, 0.6 are 1.07, 0.27, -1.34.
    np.testing.assert_allclose(fused(cross, forth.dual[:, :3], 0.5), [[-0.0778, 0.1336, -0.0558]], atol=1e-4)
    assert reranked(forth, cross, k=3, fusion=0.0).tolist() == [0], "the right one scores highest"
    assert reranked(forth, cross, k=3, fusion=0.5).tolist() == [1]
    assert reranked(forth, cross, k=3, fusion=1.0).tolist() == [2]
    assert reranked(forth, cross, k=2, fusion=0.0).tolist() == [2], "outside of the two, where the dual encoder had it"
    # A query finds any image; of the other way, only candidate 2 has a right answer.
    assert back.ranks.tolist() == [-1, -1, 0, -1, -1] and back.longest == 1
    ones = np.ones((5, 1), np.float32)
    assert reranked(back, ones, k=3, fusion=0.3).tolist() == [-1, -1, 0, -1, -1]


def test_the_cross_encoder_decides_between_two():
    """Of two candidates in equal parts, the models' scores cancel where they disagree."""
    dual, cross = np.array([[0.9, 0.8, 0.1]], np.float32), np.array([[-0.3, 4.1, 0.0]], np.float32)
    axes = np.array([[1.0]], np.float32)
    for right, rank in ((0, 1), (1, 0)):
        forth, _ = lists(axes, dual.T, np.array([[0, right]]), 2)
        assert reranked(forth, cross, k=2, fusion=0.5).tolist() == [rank]


def slow(dual, cross, right, k, fusion):
    """The rank of one query, by the definition: the K best by the dual encoder ordered anew, the others behind."""
    order = sorted(range(len(dual)), key=lambda c: -dual[c])
    # Pessimistic: what ties with the first one outside is outside where it is right.
    own = order[:k]
    edge = dual[order[k]] if k < len(dual) else -np.inf
    within = [c for c in own if c in right and dual[c] > edge]
    if not within:
        best = max(dual[c] for c in right)
        return sum(dual[c] >= best for c in range(len(dual)) if c not in right)
    means = [(np.mean(x[own]), np.std(x[own]) or 1) for x in (cross, dual)]
    scores = {
        c: (1 - fusion) * (cross[c] - means[0][0]) / means[0][1] + fusion * (dual[c] - means[1][0]) / means[1][1]
        for c in own
    }
    decides = cross if fusion < 1 else np.zeros_like(cross)
    best = max((round(scores[c], 9), decides[c]) for c in within)
    return sum((round(scores[c], 9), decides[c]) >= best for c in own if c not in right)


@pytest.fixture(scope="module")
def tied():
    """Embeddings and scores of few values."""
    rng = np.random.default_rng(5)
    images, texts = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (12, 15))
    cross = rng.integers(0, 4, (12, 15)).astype(np.float32)
    right = np.argwhere(rng.random((12, 15)) < 0.12)
    return images, texts, cross, right


@pytest.mark.parametrize("k", [1, 2, 4, 15, 40])
@pytest.mark.parametrize("fusion", [0.0, 0.25, 0.5, 1.0])
def test_ranks_equal_the_definition(k, fusion, tied):
    images, texts, cross, right = tied
    both = lists(images, texts, right, 40, devices=8)
    for own, dual, crossed, pairs in (
        (both[0], images @ texts.T, cross, right),
        (both[1], texts @ images.T, cross.T, right[:, ::-1]),
    ):
        found = reranked(own, np.take_along_axis(crossed, own.candidates, axis=1), k=k, fusion=fusion)
        for query, rank in enumerate(found.tolist()):
            hits = set(pairs[pairs[:, 0] == query, 1].tolist())
            assert rank == (slow(dual[query], crossed[query], hits, k, fusion) if hits else -1)


@pytest.mark.parametrize("k", [1, 3, 7, 12])
def test_the_dual_encoder_alone_is_fusion_one(k, tied):
    images, texts, cross, right = tied
    for own, crossed in zip(lists(images, texts, right, k), (cross, cross.T), strict=True):
        of_candidates = np.take_along_axis(crossed, own.candidates, axis=1)
        assert reranked(own, of_candidates, k=k, fusion=1.0).tolist() == own.ranks.tolist()


def test_every_candidate_re_ranked_is_every_pair_scored(source, tmp_path):
    section = {"kind": "scored_retrieval", "source": source, "texts": "all"}
    sections = {"r": section, "k": section | {"dual": "runs/align", "top": 1000}}
    found = results(sections, tmp_path)
    for name in ("image_to_text/R@1", "text_to_image/R@5", "text_to_image/median_rank", "mean_recall"):
        assert found[f"k/{name}"].value == found[f"r/{name}"].value
    protocol = found["k/mean_recall"].protocol
    assert "the 1000 best of the dual encoder runs/align (weights " in protocol
    assert "re-ranked, fusion 0, ties pessimistic" in protocol


def test_fusion_goes_from_one_model_to_the_other(source, tmp_path):
    section = {"kind": "scored_retrieval", "source": source, "dual": "runs/align", "top": 5}
    found = results({f"f{a:g}": section | {"fusion": a} for a in (0.0, 0.5, 1.0)}, tmp_path, devices=8)
    own = [[found[f"f{a:g}/text_to_image/R@{k}"].value for k in (1, 5, 10)] for a in (0.0, 0.5, 1.0)]
    assert own[0][1:] == own[1][1:] == own[2][1:], "within the K, the right ones are the same"
    assert len({first for first, *_ in own}) > 1
