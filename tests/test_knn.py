"""kNN against scikit-learn and faiss; the features that it keeps on disk."""

import faiss
import labelled_images
import numpy as np
import pytest
from labelled_images import CLASSES, PARAMS, embedder, evaluator, results, rows_of
from sklearn.neighbors import KNeighborsClassifier

from align_jax.evals import features, panels
from align_jax.evals.features import FeatureCache
from align_jax.evals.knn import vote
from align_jax.evals.statistics import interval, paired
from align_jax.types import AlignError


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return labelled_images.write(tmp_path_factory.mktemp("bank") / "data", 150, seed=0, broken=(7,))


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    return labelled_images.write(tmp_path_factory.mktemp("queries") / "data", 90, seed=1, broken=(3,))


def section(queries, bank, **options):
    return {"kind": "knn", "source": queries, "bank": bank, **options}


def test_recall_is_that_of_exact_search_by_faiss(queries, bank, tmp_path):
    found = results(section(queries, bank, k=(1, 5, 20)), tmp_path)
    (known, known_labels), (asked, labels) = rows_of(bank), rows_of(queries)
    index = faiss.IndexFlatIP(known.shape[1])
    index.add(known)
    neighbours = known_labels[index.search(asked, 20)[1]]
    assert [found[f"e/R@{k}"].value for k in (1, 5, 20)] == [
        float((neighbours[:, :k] == labels[:, None]).any(axis=1).mean()) for k in (1, 5, 20)
    ]
    one = found["e/R@1"]
    assert 0.4 < one.value < 0.95, "neither hopeless nor trivial"
    assert (
        one.n == 89 and "89 images, 1 images left out: n3 (image unreadable), against 149 of manifest" in one.protocol
    )
    assert interval(one.outcome)[0] < one.value < interval(one.outcome)[1]
    assert paired(one.outcome, found["e/R@5"].outcome).value > 0


@pytest.mark.parametrize("features", ["embedding", "features"])
def test_votes_are_those_of_scikit_learn(queries, bank, tmp_path, features):
    function = {"embedding": "embed_images", "features": "image_features"}[features]
    (known, known_labels), (asked, labels) = rows_of(bank, function), rows_of(queries, function)
    soft = section(queries, bank, k=(9, 30), weighting="softmax", temperature=0.1, features=features)
    for k in (9, 30):
        peer = KNeighborsClassifier(k, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.1))
        assert results(soft, tmp_path)[f"e/top1@{k}"].value == peer.fit(known, known_labels).score(asked, labels)
    plain = KNeighborsClassifier(1, metric="cosine").fit(known, known_labels).score(asked, labels)
    found = results(section(queries, bank, weighting="majority", features=features), tmp_path)
    assert found["e/top1@1"].value == plain


def test_of_equal_votes_the_nearer_wins():
    labels = np.array([[2, 1, 1, 2], [0, 1, 1, 0], [3, 1, 1, 0]])
    assert vote(labels, np.ones((3, 4))).tolist() == [2, 0, 1]
    assert vote(labels, np.array([[0.1, 1, 1, 0.1]] * 3)).tolist() == [1, 1, 1]


def test_majority_of_many_is_that_of_scikit_learn_where_no_votes_are_equal(queries, bank, tmp_path):
    (known, known_labels), (asked, labels) = rows_of(bank), rows_of(queries)
    peer = KNeighborsClassifier(15, metric="cosine").fit(known, known_labels)
    made = evaluator(section(queries, bank, k=(15,), weighting="majority"), tmp_path)
    (result,) = made.run(PARAMS, {})
    votes = np.sort(peer.predict_proba(asked), axis=1)
    clear = votes[:, -1] > votes[:, -2]
    assert 60 < clear.sum() < len(clear)
    right = peer.predict(asked) == labels
    assert (result.outcome.values[clear] == right[clear]).all()


def test_a_record_never_finds_itself(bank, tmp_path):
    found = results(section(bank, bank, k=(1, 3)), tmp_path)
    rows, labels = rows_of(bank)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -np.inf)
    assert found["e/R@1"].value == float((labels[scores.argmax(axis=1)] == labels).mean()) < 1
    assert "against the others of them" in found["e/R@1"].protocol


def test_nor_others_of_its_id(tmp_path):
    """Each picture stands there twice: the twin is the nearest, and no answer."""
    options = labelled_images.write(tmp_path / "data", 40)
    lines = (tmp_path / "data" / "pairs.jsonl").read_text()
    once = results(section(options, options, k=(1,)), tmp_path)["e/R@1"].value
    (tmp_path / "data" / "twice.jsonl").write_text(lines + lines)
    twice = {"name": "manifest", "path": str(tmp_path / "data" / "twice.jsonl")}
    assert results(section(twice, twice, k=(1,)), tmp_path)["e/R@1"].value == once


def test_the_same_bits_on_one_and_eight_devices(queries, bank, tmp_path):
    for options in ({"k": (1, 7)}, {"k": (7,), "weighting": "softmax"}):
        one, eight = (evaluator(section(queries, bank, **options), tmp_path, devices) for devices in (1, 8))
        for a, b in zip(one.run(PARAMS, {}), eight.run(PARAMS, {}), strict=True):
            assert a._replace(outcome=None) == b._replace(outcome=None)
            np.testing.assert_array_equal(a.outcome.values, b.outcome.values)


def test_pictures_of_the_last_run(queries, bank, tmp_path):
    made = evaluator(section(queries, bank, k=(5,)), tmp_path)
    assert list(made.panels()) == []
    (result,) = made.run(PARAMS, {})
    confusion, grid = made.panels()
    assert isinstance(confusion, panels.Confusion) and isinstance(grid, panels.Grid)
    assert confusion.counts.sum() == 89 and set(confusion.classes) == set(CLASSES)
    assert len(grid.rows) == 8 and result.n == 89
    for query, hits in grid.rows:
        assert query.picture and all(hit.item.picture and hit.right == (hit.item.text == query.text) for hit in hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": (0, 1)}, "numbers of neighbours of at least 1"),
        ({"k": ()}, "numbers of neighbours of at least 1"),
        ({"k": 1}, r"evals\.e\.k: expected a list of whole numbers, found 1"),
        ({"k": ("1",)}, r"evals\.e\.k: expected a list of whole numbers, found \('1',\)"),
        ({"k": (1.5,)}, "k: expected a list of whole numbers"),
        ({"temperature": "a"}, r"evals\.e\.temperature: expected a number, found 'a'"),
        ({"source": "emoji"}, r"evals\.e\.source: expected a section, found 'emoji'"),
        ({"k": (151,)}, r"expected at most the 150 images of the bank manifest.*found 151"),
        ({"k": (150,)}, r"expected at most the 149 images of the bank"),  # at run: one of them is unreadable
        ({"weighting": "most"}, "expected one of .*'majority'"),
        ({"weighting": "softmax", "temperature": 0.0}, "temperature: expected a number above 0"),
        ({"features": "pixels"}, r"features: expected one of \['embedding', 'features'\]"),
    ],
)
def test_a_wrong_option_is_refused(options, message, queries, bank, tmp_path):
    with pytest.raises(AlignError, match=message):
        results(section(queries, bank, **options), tmp_path)


def test_classes_must_be_the_same(bank, tmp_path):
    other = labelled_images.write(tmp_path / "other", 8, classes=("bee", "cat", "dog", "emu"))
    with pytest.raises(AlignError, match=r"\['emu'\] only in .*, \['elk'\] only in .*"):
        evaluator(section(other, bank), tmp_path)
    bare = tmp_path / "other" / "bare.jsonl"
    bare.write_text('{"image": "0.png", "text": "x", "label": "bee"}\n{"image": "1.png", "text": "x"}\n')
    with pytest.raises(AlignError, match=r"evals\.e\.source: expected a label for each .* 1 of 2, first '1\.png'"):
        evaluator(section({"name": "manifest", "path": str(bare)}, bank), tmp_path)


def test_a_record_of_both_does_not_find_itself(queries, tmp_path):
    part = queries | {"share": 0.5}
    alone = results(section(queries, queries), tmp_path)["e/R@1"]
    found = results(section(part, queries), tmp_path)["e/R@1"]
    ids, own = (embedder().open(options).ids().to_pylist() for options in (queries, part))
    right = dict(zip([name for name in ids if name != "n3"], alone.outcome.values, strict=True))
    assert found.outcome.values.tolist() == [right[name] for name in own if name in right] and 0 < found.value < 1
    assert f"({len(own)} are in both and do not find themselves)" in found.protocol


def test_what_was_embedded_is_read_from_disk(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PIECE", 64)
    one = embedder()
    rows, bad = one.images(PARAMS, {}, one.open(bank), function="image_features")
    cache = FeatureCache(one, tmp_path)
    for _ in range(2):
        kept, kept_bad = cache.images(PARAMS, {}, bank, function="image_features")
        np.testing.assert_allclose(kept, rows, rtol=1e-5, atol=1e-6)
        assert kept_bad == bad == {7: "image unreadable"}
        monkeypatch.setattr(one, "images", lambda *_, **__: pytest.fail("embedded again"))
    assert [path.name for path in sorted(tmp_path.glob("*/*"))] == ["0.npz", "128.npz", "64.npz"]


def test_a_broken_or_missing_piece_is_embedded_again(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PIECE", 64)
    one = embedder()
    whole = FeatureCache(one, tmp_path).images(PARAMS, {}, bank)
    (folder,) = tmp_path.iterdir()
    (folder / "0.npz").write_bytes((folder / "0.npz").read_bytes()[:-100])
    (folder / "64.npz").unlink()
    asked = []
    embed = one.images
    monkeypatch.setattr(one, "images", lambda p, s, images, **k: asked.append(len(images)) or embed(p, s, images, **k))
    again = FeatureCache(one, tmp_path).images(PARAMS, {}, bank)
    assert asked == [64, 64], "the third piece is kept"
    np.testing.assert_array_equal(again[0], whole[0])
    assert again[1] == whole[1]


def test_a_cache_of_other_weights_or_data_is_not_used(queries, bank, tmp_path):
    one = embedder()
    cache = FeatureCache(one, tmp_path)
    calls = [(PARAMS, bank, "embed_images"), (PARAMS * 2, bank, "embed_images"), (PARAMS, queries, "embed_images"),
             (PARAMS, bank, "image_features")]  # fmt: skip
    for count, (params, options, function) in enumerate(calls, 1):
        kept, _ = cache.images(params, {}, options, function=function)
        assert len(list(tmp_path.iterdir())) == count
        np.testing.assert_array_equal(kept, one.images(params, {}, one.open(options), function=function)[0])


def test_only_the_bank_is_kept_and_numbers_stay(queries, bank, tmp_path):
    kept = section(queries, bank, k=(1, 5), cache=True)
    plain = {name: result.value for name, result in results(section(queries, bank, k=(1, 5)), tmp_path).items()}
    for _ in range(2):
        assert {name: result.value for name, result in results(kept, tmp_path).items()} == plain
    assert len(list((tmp_path / "features").iterdir())) == 1
