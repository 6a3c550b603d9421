"""Spearman's correlation against scipy, and SimLex-999 of a model whose word vectors are known."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from align_jax import evals, sharding
from align_jax.data.pairs import Pairs
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.evals import statistics
from align_jax.evals.correlation import BLOCK, spearman
from align_jax.evals.embedding import Embedder
from align_jax.evals.simlex import COLUMNS
from align_jax.types import AlignError

WORDS = tuple(a + b for a in ("old", "new", "smart", "hard") for b in ("est", "ly", "ness", "er", "ful", "ish", "en"))
PARAMS = np.random.default_rng(0).normal(size=(len(SPECIAL) + len(WORDS), 5)).astype(np.float32)
PARAMS[: len(SPECIAL)] = 0


def text_features(params, model_state, inputs):
    rows = params[inputs["text_ids"]] * inputs["text_mask"][..., None].astype(jnp.float32)
    return jnp.sum(rows, axis=1)


def embed_texts(params, model_state, inputs):
    """The first two dimensions, so that they rank otherwise."""
    rows = text_features(params, model_state, inputs)[:, :2]
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)


FUNCTIONS = {"text_features": text_features, "embed_texts": embed_texts}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr("align_jax.evals.simlex.DRAWS", 100)


@pytest.fixture
def rows():
    """[word1, word2, POS, score, .., in the hard third, ..] of 999 pairs, with the counts of the real file."""
    rng = np.random.default_rng(1)
    kinds = ["A"] * 111 + ["N"] * 666 + ["V"] * 222
    return [
        [WORDS[a], WORDS[b], kind, f"{score:.2f}", "2.72", "2.81", "2", "7.25", str(int(place % 3 == 0)), "0.41"]
        for place, (kind, score) in enumerate(zip(kinds, rng.uniform(0, 10, 999), strict=True))
        for a, b in [rng.choice(len(WORDS), 2, replace=False)]
    ]


def write(folder, rows, header=COLUMNS):
    path = folder / "SimLex-999.txt"
    path.write_bytes("\r\n".join("\t".join(row) for row in [header, *rows]).encode())  # as it is published
    return str(path)


def results(path, tmp_path, params=PARAMS, devices=1, **options):
    pairs = Pairs(WordPiece((*SPECIAL, *WORDS)), resize=8, crop=8, flip=False, text_length=4)
    embedder = Embedder(FUNCTIONS, pairs, mesh=sharding.make_mesh(devices=devices), batch_size=16)
    sections = {"s": {"kind": "simlex", "path": path, **options}}
    [made] = evals.make(sections, embedder, functions=FUNCTIONS, workdir=tmp_path)
    return {result.name: result for result in made.run(params, {})}


def cosines(rows, params, width=5):
    vectors = params[len(SPECIAL) :, :width].astype(np.float64)
    of = dict(zip(WORDS, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))
    return np.array([of[a] @ of[b] for a, b, *_ in rows])


@given(
    st.lists(st.lists(st.tuples(st.integers(-2, 2), st.floats(-3, 3, width=16)), min_size=5, max_size=5), min_size=1)
)
def test_spearman_is_that_of_scipy(drawn):
    first, second = np.moveaxis(np.array(drawn), 2, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        expected = [stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman(first, second), expected, atol=1e-12)


def test_spearman_of_more_rows_than_are_ranked_at_a_time(monkeypatch):
    monkeypatch.setattr("align_jax.evals.correlation.BLOCK", 3000)
    assert BLOCK > 3000
    first, second = np.random.default_rng(0).integers(0, 300, (2, 4, 2, 999))
    expected = [
        stats.spearmanr(a, b).statistic for a, b in zip(first.reshape(8, -1), second.reshape(8, -1), strict=True)
    ]
    np.testing.assert_allclose(spearman(first, second).ravel(), expected, atol=1e-12)
    np.testing.assert_allclose(spearman(first, second[0, 0])[0, 0], expected[0])


@pytest.mark.parametrize(("features", "width"), [("features", 5), ("embedding", 2)])
def test_each_part_is_spearman_of_cosine(features, width, rows, tmp_path):
    found = results(write(tmp_path, rows), tmp_path, features=features)
    assert {name: result.n for name, result in found.items()} == {
        "s/all": 999, "s/hard": 333, "s/adjectives": 111, "s/nouns": 666, "s/verbs": 222
    }  # fmt: skip
    cosine = cosines(rows, PARAMS, width)
    for part, own in (("all", slice(None)), ("hard", slice(0, None, 3)), ("nouns", slice(111, 777))):
        expected = stats.spearmanr(cosine[own], [float(row[3]) for row in rows[own]]).statistic
        assert found[f"s/{part}"].value == pytest.approx(expected, abs=1e-5)
        low, high = statistics.interval(found[f"s/{part}"].outcome)
        assert low < expected < high and high - low < 0.3


def test_two_models_are_asked_the_same_draws(rows, tmp_path):
    path = write(tmp_path, rows)
    models = PARAMS, PARAMS * np.array([3, 1, 1, 1, 1], np.float32)
    first, second = (results(path, tmp_path, params)["s/all"] for params in models)
    drawn = np.random.default_rng(0).choice(999, (100, 999))[7]
    for params, result in zip(models, (first, second), strict=True):
        expected = stats.spearmanr(cosines(rows, params)[drawn], [float(rows[i][3]) for i in drawn]).statistic
        assert result.outcome.values[7] == pytest.approx(expected, abs=1e-5)
    difference = statistics.paired(first.outcome, second.outcome)
    assert difference.value == pytest.approx(second.value - first.value, abs=0.02)
    with pytest.raises(AlignError, match="the same examples"):
        statistics.paired(first.outcome, results(path, tmp_path, seed=1)["s/all"].outcome)


def test_a_model_that_finds_all_words_alike_has_no_correlation(rows, tmp_path):
    found = results(write(tmp_path, rows), tmp_path, np.where(PARAMS == 0, PARAMS, 1))
    assert found["s/all"].value == 0 and not found["s/all"].outcome.values.any()


def test_numbers_are_the_same_on_one_and_eight_devices(rows, tmp_path):
    path = write(tmp_path, rows)
    one, eight = results(path, tmp_path), results(path, tmp_path, devices=8)
    for name, result in one.items():
        assert result.value == eight[name].value and result.facts == eight[name].facts
        np.testing.assert_array_equal(result.outcome.values, eight[name].outcome.values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:998], r"expected the pairs of SimLex-999, .*'all': 999.* found {'all': 998"),
        (lambda rows: [*rows[:998], [*rows[998][:2], "N", *rows[998][3:]]], "found .*'nouns': 667"),
        (lambda rows: [[*row[:3], str(float(row[3]) * 10), *row[4:]] for row in rows], "score from 0 to 10, found"),
        (lambda rows: [rows[0][:9], *rows[1:]], "expected 10 values in line 2"),
        (lambda rows: [["", *rows[0][1:]], *rows[1:]], "expected 10 values in line 2"),
    ],
)
def test_another_version_is_refused(change, message, rows, tmp_path):
    with pytest.raises(AlignError, match=message):
        results(write(tmp_path, change(rows)), tmp_path)


def test_other_columns_and_files_are_refused(rows, tmp_path):
    with pytest.raises(AlignError, match=r"expected columns word1, word2, POS, .* found \['Word 1', 'Word 2'"):
        results(write(tmp_path, rows, ["Word 1", "Word 2", "Human (mean)"]), tmp_path)
    with pytest.raises(AlignError, match=r"evals\.s\.path: expected SimLex-999.txt, found .* No such file"):
        results(str(tmp_path / "none.txt"), tmp_path)
    with pytest.raises(AlignError, match="expected one of"):
        results(write(tmp_path, rows), tmp_path, features="cls")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(AlignError, match=r"found \[\]"):
        results(str(tmp_path / "empty.txt"), tmp_path)
