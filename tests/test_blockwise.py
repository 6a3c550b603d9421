"""Exact blockwise search against whole matrices, and bit for bit on one device and on eight."""

import faiss
import numpy as np
import pytest

from align_jax import sharding
from align_jax.evals import blockwise
from align_jax.evals.blockwise import Blockwise


def unit(rng, count, width):
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def small_blocks(monkeypatch):
    """So that a hundred rows are many blocks, chunks and rounds of devices."""
    monkeypatch.setattr(blockwise, "QUERIES", 8)
    monkeypatch.setattr(blockwise, "CANDIDATES", 16)
    monkeypatch.setattr(blockwise, "CHUNK", 2)


def both(queries, candidates):
    return [Blockwise(sharding.make_mesh(devices=devices), queries, candidates) for devices in (1, 8)]


@pytest.mark.parametrize(("queries", "candidates"), [(37, 301), (301, 37), (1, 5), (5, 1), (16, 128)])
def test_whole_numbers_give_what_the_whole_matrix_gives(small_blocks, queries, candidates):
    """Sums of whole numbers are exact in any order: nothing may differ, ties included."""
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-3, 4, (count, 6)).astype(np.float32) for count in (queries, candidates))
    whole = left @ right.T
    pairs = rng.integers(0, (queries, candidates), (200, 2))
    floors = (rng.integers(-9, 9, count).astype(np.float32) for count in (queries, candidates))
    query_floor, candidate_floor = floors
    order = np.argsort(-whole, axis=1, kind="stable")[:, :7]
    for search in both(left, right):
        np.testing.assert_array_equal(search.scores(pairs), whole[pairs[:, 0], pairs[:, 1]])
        forth, back = search.at_least(query_floor, candidate_floor)
        np.testing.assert_array_equal(forth, (whole >= query_floor[:, None]).sum(axis=1))
        np.testing.assert_array_equal(back, (whole >= candidate_floor[None]).sum(axis=0))
        scores, found = search.nearest(7)
        np.testing.assert_array_equal(found, order)
        np.testing.assert_array_equal(scores, np.take_along_axis(whole, order, axis=1))


def test_the_same_bits_on_one_device_and_on_eight(small_blocks):
    rng = np.random.default_rng(1)
    queries, candidates = unit(rng, 90, 24), unit(rng, 250, 24)
    pairs = rng.integers(0, (90, 250), (500, 2))
    one, eight = both(queries, candidates)
    assert one.scores(pairs).tobytes() == eight.scores(pairs).tobytes()
    for first, second in zip(one.nearest(5), eight.nearest(5), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_pair_scores_the_same_wherever_it_is_asked_for(small_blocks):
    """A floor that is the score of a pair counts that pair, and its exact copies in other blocks."""
    rng = np.random.default_rng(2)
    queries, originals = unit(rng, 60, 24), unit(rng, 70, 24)
    candidates = np.concatenate([originals, unit(rng, 13, 24), originals])
    pairs = np.stack([np.arange(60), rng.integers(0, 70, 60)], axis=1)
    for search in both(queries, candidates):
        floors = search.scores(pairs)
        np.testing.assert_array_equal(floors, search.scores(pairs + np.array([0, 83])))
        just_above = np.nextafter(floors, np.float32(2))
        nothing = np.full(len(candidates), np.inf, np.float32)
        reached, above = search.at_least(floors, nothing)[0], search.at_least(just_above, nothing)[0]
        assert (reached - above == 2).all()


def test_nearest_is_faiss_exact_search(small_blocks):
    rng = np.random.default_rng(3)
    queries, candidates = unit(rng, 50, 32), unit(rng, 400, 32)
    index = faiss.IndexFlatIP(32)
    index.add(candidates)
    expected, found = index.search(queries, 10)
    for search in both(queries, candidates):
        scores, where = search.nearest(10)
        np.testing.assert_array_equal(where, found)
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_more_neighbours_than_candidates(small_blocks):
    rng = np.random.default_rng(4)
    queries, candidates = unit(rng, 3, 8), unit(rng, 5, 8)
    for search in both(queries, candidates):
        assert sorted(search.nearest(9)[1][0].tolist()) == [0, 1, 2, 3, 4]
