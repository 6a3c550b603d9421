"""Scores of pairs: by hand, on one device and on eight, after a kill; and what is ranked by them."""

import json

import known_cross_encoder
import known_model
import numpy as np
import pytest
from known_cross_encoder import FUNCTIONS, by_hand, embedder, evaluators, results
from known_model import PARAMS, picture, write_manifest, write_pairs
from PIL import Image
from test_retrieval import slow_ranks, turned

from align_jax.evals import pair_scores
from align_jax.evals.dense import Dense
from align_jax.evals.pair_scores import PairScores
from align_jax.evals.ranking import ranks_in
from align_jax.types import AlignError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """21 pictures with two captions each."""
    return write_pairs(tmp_path_factory.mktemp("pairs"), 21, 2)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of images, several pieces, and neither a multiple of the other."""
    monkeypatch.setattr(pair_scores, "IMAGES", 8)
    monkeypatch.setattr(pair_scores, "ROWS", 32)
    monkeypatch.setattr(pair_scores, "PIECE", 100)


def texts_of(source):
    with open(source["path"]) as file:
        return [text for row in map(json.loads, file) for text in row["texts"]]


def engine(source, folder, devices=1, functions=known_cross_encoder.FUNCTIONS):
    return PairScores(embedder(devices, functions), PARAMS, {}, source, texts_of(source), folder=folder)


def expected(source):
    """f64 [images, texts]."""
    one = embedder()
    pictures = [one.pairs.image(one.open(source)[i].image) for i in range(21)]
    return np.array([[by_hand(pixels, text) for text in texts_of(source)] for pixels in pictures])


@pytest.mark.parametrize("devices", [1, 8])
def test_scores_are_those_by_hand(devices, source, tmp_path):
    scores = engine(source, tmp_path, devices)
    images, texts = np.array([20, 3, *range(4, 19)]), np.array([7, 0, 7, *range(30)])
    by_loops = expected(source)
    np.testing.assert_allclose(scores.every(images, texts), by_loops[np.ix_(images, texts)], atol=1e-5)
    pairs = np.random.default_rng(0).integers(0, (21, 42), (333, 2))
    np.testing.assert_allclose(scores.some(pairs), by_loops[pairs[:, 0], pairs[:, 1]], atol=1e-5)


def test_numbers_are_the_same_on_one_and_eight_devices(source, tmp_path):
    every = np.arange(21), np.arange(42)
    one, eight = (engine(source, tmp_path / str(n), n).every(*every) for n in (1, 8))
    np.testing.assert_allclose(one, eight, rtol=0, atol=1e-6)


class Killed(BaseException):
    """As by a signal."""


def test_a_killed_run_goes_on(source, tmp_path, monkeypatch):
    every = np.arange(21), np.arange(42)
    shown, scored, stop = [], [], [3]

    class Counting(pair_scores.Scorer):
        def place(self, tokens):
            shown.append(len(tokens))
            return super().place(tokens)

        def __call__(self, tokens, pairs):
            if len(pairs) > 1:  # one alone warms up
                scored.append(len(pairs))
            if len(scored) > stop[0]:
                raise Killed
            return super().__call__(tokens, pairs)

    monkeypatch.setattr(pair_scores, "Scorer", Counting)
    with pytest.raises(Killed):
        engine(source, tmp_path).every(*every)
    stop[0], before = 1000, sum(scored[:2])
    shown.clear(), scored.clear()
    again = engine(source, tmp_path)
    found = again.every(*every)
    assert sum(scored) < 21 * 42 - 100, "what was written is not scored again"
    assert sum(scored) == 21 * 42 - before // 100 * 100
    np.testing.assert_allclose(found, expected(source), atol=1e-5)
    shown.clear(), scored.clear()
    third = engine(source, tmp_path)
    assert np.array_equal(third.every(*every), found) and not scored and not shown
    assert third.cost.pairs == 21 * 42 and third.cost.rate > 0, "as it was measured when it was computed"
    # Each image's tokens are made once, and a block of nothing to warm up.
    engine(source, tmp_path / "new").every(*every)
    assert sum(shown) == 21 + 7 and sum(scored) == 21 * 42


def test_scores_of_other_weights_data_or_texts_are_not_taken(source, tmp_path):
    pairs = np.array([[0, 0], [5, 1]])
    first = engine(source, tmp_path).some(pairs)
    options = source | {"share": 1.0}  # the same data otherwise named
    others = [
        PairScores(embedder(), 2 * PARAMS, {}, source, texts_of(source), folder=tmp_path),
        PairScores(embedder(), PARAMS, {}, source, texts_of(source)[::-1], folder=tmp_path),
    ]
    assert not any(np.array_equal(other.some(pairs), first) for other in others)
    half = {**FUNCTIONS, "score_tokens": lambda *given: 0.5 * FUNCTIONS["score_tokens"](*given)}
    other = PairScores(embedder(functions=half, computes="half"), PARAMS, {}, source, texts_of(source), folder=tmp_path)
    np.testing.assert_allclose(other.some(pairs), first / 2, atol=1e-6)  # of equal weights
    folders = {path.name for path in (tmp_path / "pair_scores").iterdir()}
    PairScores(embedder(), PARAMS, {}, options, texts_of(source), folder=tmp_path).some(pairs)
    assert {path.name for path in (tmp_path / "pair_scores").iterdir()} > folders


def test_weights_that_give_nan_are_refused(source, tmp_path):
    broken = PairScores(embedder(), PARAMS * np.nan, {}, source, texts_of(source), folder=tmp_path)
    with pytest.raises(AlignError, match="expected finite numbers"):
        broken.some(np.array([[0, 0]]))


def test_ranks_of_scores_at_hand_equal_the_definition(monkeypatch):
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 4, (13, 9)).astype(np.float32)
    right = np.argwhere(rng.random((13, 9)) < 0.15)
    pairs = set(map(tuple, right.tolist()))
    monkeypatch.setattr("align_jax.evals.dense.BLOCK", 20)
    forth, back = ranks_in(Dense(scores), right)
    assert forth.tolist() == slow_ranks(scores, pairs) and -1 in forth
    assert back.tolist() == slow_ranks(scores.T, turned(pairs))
    best, found = Dense(scores).nearest(3)
    assert all(
        list(row) == sorted(range(9), key=lambda c: -line[c])[:3] for row, line in zip(found, scores, strict=True)
    )
    assert np.array_equal(best, np.sort(scores, axis=1)[:, ::-1][:, :3])


@pytest.mark.parametrize("options", [{}, {"texts": "all", "folds": 3}])
def test_the_evaluator_scores_every_pair(options, source, tmp_path):
    found = results({"r": {"kind": "scored_retrieval", "source": source} | options}, tmp_path, devices=8)
    scores, texts = np.round(expected(source), 4), texts_of(source)
    values = {}
    for part in np.array_split(np.arange(21), options.get("folds", 1)):
        columns = [2 * i + j for i in part for j in (0, 1)]
        names = [texts[column] for column in columns]
        pairs = {(place, 2 * place + j) for place in range(len(part)) for j in (0, 1)}
        if not options:
            columns = [columns[names.index(name)] for name in dict.fromkeys(names)]
            once = list(dict.fromkeys(names))
            pairs = {(place, once.index(names[number])) for place, number in pairs}
        own = scores[np.ix_(part, columns)]
        for way, places in (
            ("image_to_text", slow_ranks(own, pairs)),
            ("text_to_image", slow_ranks(own.T, turned(pairs))),
        ):
            values.setdefault(f"r/{way}/R@5", []).append(np.mean(np.array(places) < 5))
            values.setdefault(f"r/{way}/median_rank", []).append(np.median(places) + 1)
    for name, of_folds in values.items():
        assert found[name].value == pytest.approx(np.mean(of_folds), rel=1e-6)
    assert 0 < found["r/image_to_text/R@1"].value < 1
    protocol = found["r/mean_recall"].protocol
    assert "hit = same group, central 4 px of 4 x 4, every pair scored, ties pessimistic" in protocol


def test_an_image_that_cannot_be_read_is_left_out_and_named(tmp_path):
    for word in "abc":
        picture(word).save(tmp_path / f"{word}.png")
    Image.new("L", (4, 4)).save(tmp_path / "d.png")
    (tmp_path / "c.png").write_bytes(b"no picture")
    source = write_manifest(tmp_path, [{"image": f"{word}.png", "texts": [word]} for word in "abcd"])
    found = results({"r": {"kind": "scored_retrieval", "source": source}}, tmp_path)
    assert found["r/text_to_image/R@1"].n == 3
    assert "3 images of 3 groups x 4 texts" in found["r/text_to_image/R@1"].protocol
    assert "1 images left out: c.png (image unreadable)" in found["r/text_to_image/R@1"].protocol


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": 0}, "expected top above 0 and fusion from 0 to 1, found 0 and 0"),
        ({"fusion": 1.5}, "expected top above 0 and fusion from 0 to 1, found 50 and 1.5"),
        ({"texts": "each"}, "expected one of"),
        ({"tops": 5}, "did you mean 'top'"),
    ],
)
def test_wrong_options_are_refused(change, message, source, tmp_path):
    with pytest.raises(AlignError, match=message):
        evaluators({"r": {"kind": "scored_retrieval", "source": source} | change}, tmp_path)


def test_a_model_of_the_other_kind_is_refused(source, tmp_path):
    with pytest.raises(AlignError, match=r"evals\.r: needs 'image_tokens'"):
        known_model.evaluators({"r": {"kind": "scored_retrieval", "source": source}}, tmp_path)

    class Cross(known_cross_encoder.Dual):
        functions = ("image_tokens", "score_tokens")

    section = {"kind": "scored_retrieval", "source": source, "dual": "runs/imagebert"}
    with pytest.raises(AlignError, match=r"evals\.r\.dual: expected a dual encoder, with embed_images"):
        evaluators({"r": section}, tmp_path, load=lambda path: Cross())


@pytest.mark.parametrize("kind", ["retrieval", "scored_retrieval"])
def test_a_text_without_a_word_is_one_line(kind, tmp_path):
    """A zero-width space is no blank, and no word either."""
    picture("a").save(tmp_path / "a.png")
    source = write_manifest(tmp_path, [{"image": "a.png", "texts": ["\u200b"]}])
    measure = results if kind == "scored_retrieval" else known_model.results
    with pytest.raises(AlignError, match=r"^evaluation: text 0: expected at least one word, found '\\u200b'; take it"):
        measure({"r": {"kind": kind, "source": source}}, tmp_path)
