"""Retrieval against plain definitions, clip_benchmark and faiss, with a model whose embeddings are known."""

import json
import runpy
from pathlib import Path

import faiss
import known_model
import numpy as np
import pytest
import tensorflow_datasets as tfds
import torch
from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k
from known_model import PARAMS, evaluators, results, write_manifest, write_pairs

from align_jax import sharding
from align_jax.evals import statistics
from align_jax.evals.ranking import Asked, ranks
from align_jax.types import AlignError


def slow_ranks(scores, right, without=frozenset()):
    """By the definition, one query at a time; -1 without a right answer."""
    found = []
    for query, row in enumerate(scores):
        hits = [column for column in range(len(row)) if (query, column) in right]
        best = max((row[column] for column in hits), default=None)
        others = [c for c in range(len(row)) if c not in hits and (query, c) not in without]
        found.append(-1 if best is None else sum(row[column] >= best for column in others))
    return found


def turned(pairs):
    return {(second, first) for first, second in pairs}


@pytest.fixture(scope="module")
def whole_numbers():
    """Embeddings with many ties, right pairs for most of them, and pairs that do not count."""
    rng = np.random.default_rng(0)
    queries, candidates = (rng.integers(-2, 3, (n, 4)).astype(np.float32) for n in (11, 17))
    kind = rng.choice(3, (11, 17), p=(0.75, 0.15, 0.1))
    kind[4], kind[:, 3] = 0, 0
    return queries, candidates, np.argwhere(kind == 1), np.argwhere(kind == 2)


@pytest.mark.parametrize("devices", [1, 8])
def test_ranks_equal_the_definition(devices, whole_numbers):
    queries, candidates, right, without = whole_numbers
    found = ranks(sharding.make_mesh(devices=devices), queries, candidates, right, without)
    pairs, others = set(map(tuple, right.tolist())), set(map(tuple, without.tolist()))
    scores = queries @ candidates.T
    assert found[0].tolist() == slow_ranks(scores, pairs, others)
    assert found[1].tolist() == slow_ranks(scores.T, turned(pairs), turned(others))
    assert found[0][4] == found[1][3] == -1


def test_ties_take_the_pessimistic_rank():
    same = np.ones((5, 2), np.float32)
    diagonal = np.stack([np.arange(5)] * 2, axis=1)
    assert [found.tolist() for found in ranks(sharding.make_mesh(devices=1), same, same, diagonal)] == [[4] * 5] * 2


def test_a_query_is_no_candidate_of_its_own():
    rows = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    rows[5] = rows[0]
    itself, right = np.stack([np.arange(6)] * 2, axis=1), np.array([[0, 1], [1, 0], [2, 3], [3, 2]])
    found, _ = ranks(sharding.make_mesh(devices=1), rows, rows, right, itself)
    pairs = set(map(tuple, right.tolist()))
    assert found.tolist() == slow_ranks(rows @ rows.T, pairs, set(map(tuple, itself.tolist())))
    assert found[0] >= 1, "the copy of a query is a candidate"


@pytest.fixture(scope="module")
def planted():
    """Unit images, five unit texts of each, all different."""
    rng = np.random.default_rng(2)
    images = rng.normal(size=(40, 16))
    texts = np.repeat(images, 5, axis=0) + rng.normal(size=(200, 16)) * 3
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    right = np.stack([np.repeat(np.arange(40), 5), np.arange(200)], axis=1)
    return images.astype(np.float32), texts.astype(np.float32), right


def test_recall_is_that_of_clip_benchmark(planted):
    images, texts, right = planted
    scores = torch.from_numpy(texts @ images.T)
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[right[:, 1], right[:, 0]] = True
    forth, back = ranks(sharding.make_mesh(devices=8), images, texts, right)
    for k in (1, 5, 10):
        for found, theirs in ((back, (scores, positive)), (forth, (scores.T, positive.T))):
            # Theirs is the share of the right ones that are found; they call a query right where any is.
            recall = batchify(recall_at_k, *theirs, 16, "cpu", k=k) > 0
            assert (found < k).tolist() == recall.tolist() and 0 < recall.sum() < len(recall)


def test_ranks_are_those_of_an_exact_index(planted):
    images, texts, right = planted
    index = faiss.IndexFlatIP(16)
    index.add(texts)
    _, order = index.search(images, 200)
    first = [np.flatnonzero(line // 5 == image)[0] for image, line in enumerate(order)]
    assert ranks(sharding.make_mesh(devices=1), images, texts, right)[0].tolist() == first


def test_the_median_rank_counts_from_one_and_folds_are_averaged():
    asked = Asked(np.array([0, 4, 9, 2]), np.arange(4), np.zeros(4, np.int64))
    assert asked.median_rank() == 4.0
    folds = asked._replace(folds=np.array([0, 0, 0, 1]))
    assert folds.median_rank() == (5 + 3) / 2
    assert statistics.estimate(folds.hits(3)) == (1 / 3 + 1) / 2


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """60 pictures with three captions each, some of them shared."""
    return write_pairs(tmp_path_factory.mktemp("pairs"), 60, 3)


def slow_retrieval(source, kind, at, captions=None, folds=1):
    """{name: value} from the embeddings, by loops."""
    with open(source["path"]) as file:
        rows = [json.loads(line) for line in file]
    one = known_model.embedder()
    images, _ = one.images(PARAMS, {}, one.open(source))
    found = {}
    for fold in range(folds):
        part = range(fold * len(rows) // folds, (fold + 1) * len(rows) // folds)
        captioned = [(i, text) for i in part for text in rows[i]["texts"][:captions]]
        texts = [text for _, text in captioned]
        pairs = {(place - part[0], number) for number, (place, _) in enumerate(captioned)}
        if kind == "unique":
            texts = list(dict.fromkeys(texts))
            pairs = {(place - part[0], texts.index(text)) for place, text in captioned}
        # Rounded, since a tie of numpy's product need not be exact.
        scores = np.round(images[part.start : part.stop].astype(float) @ one.texts(PARAMS, {}, texts).T, 5)
        ways = {"image_to_text": slow_ranks(scores, pairs), "text_to_image": slow_ranks(scores.T, turned(pairs))}
        for way, places in ways.items():
            for k in at:
                found.setdefault(f"r/{way}/R@{k}", []).append(np.mean(np.array(places) < k))
            found.setdefault(f"r/{way}/median_rank", []).append(np.median(places) + 1)
    recalls = [value for name, values in found.items() if "R@" in name for value in values]
    return {name: np.mean(values) for name, values in found.items()} | {"r/mean_recall": np.mean(recalls)}


@pytest.mark.parametrize(
    "options", [{}, {"texts": "all"}, {"texts": "all", "captions": 2, "folds": 3}, {"texts": "unique", "folds": 3}]
)
def test_retrieval_equals_the_definition(options, source, tmp_path):
    found = results({"r": {"kind": "retrieval", "source": source, "at": (1, 4)} | options}, tmp_path, devices=8)
    expected = slow_retrieval(source, options.pop("texts", "unique"), (1, 4), **options)
    assert {name: result.value for name, result in found.items()} == pytest.approx(expected, rel=1e-12)
    assert 0 < expected["r/image_to_text/R@1"] < expected["r/text_to_image/R@4"] < 1


def test_a_protocol_says_what_was_asked(source, tmp_path):
    options = {"texts": "all", "captions": 2, "folds": 3}
    found = results({"r": {"kind": "retrieval", "source": source} | options}, tmp_path)
    recall = found["r/text_to_image/R@5"]
    assert recall.n == 120 and found["r/image_to_text/R@5"].n == 60 and found["r/mean_recall"].n == 180
    assert recall.protocol == (
        f"manifest(path={source['path']}), first 2 texts of an image, each caption is a candidate: mean over 3 folds "
        "of 20 images of 20 groups x 40 texts, hit = same group, central 4 px of 4 x 4, ties pessimistic"
    )
    assert found["r/mean_recall"].protocol == recall.protocol + ", mean of R@1, 5, 10 over 2 ways"
    assert recall.facts["crop"] == "central 4 px of 4 x 4" and len(recall.facts["data"]) == 16


def test_numbers_and_outcomes_are_the_same_on_one_and_eight_devices(source, tmp_path):
    sections = {"r": {"kind": "retrieval", "source": source}, "f": {"kind": "retrieval", "source": source, "folds": 4}}
    one, eight = results(sections, tmp_path), results(sections, tmp_path, devices=8)
    for name, result in one.items():
        assert result._replace(outcome=None) == eight[name]._replace(outcome=None)
        if name != "f/image_to_text/median_rank" and name != "f/text_to_image/median_rank":
            assert np.array_equal(result.outcome.values, eight[name].outcome.values)
            assert statistics.estimate(result.outcome) == result.value
            assert statistics.paired(result.outcome, eight[name].outcome).value == 0.0
            low, high = statistics.interval(result.outcome)
            assert low <= result.value <= high


def test_captions_of_an_image_are_drawn_together(source, tmp_path):
    found = results({"r": {"kind": "retrieval", "source": source, "texts": "all"}}, tmp_path)
    assert np.bincount(found["r/text_to_image/R@1"].outcome.units).tolist() == [3] * 60
    assert np.bincount(found["r/image_to_text/R@1"].outcome.units).tolist() == [1] * 60
    # Both ways, three K: an image and its captions, three times each.
    assert np.bincount(found["r/mean_recall"].outcome.units).tolist() == [12] * 60
    assert len(set(found["r/mean_recall"].outcome.parts.tolist())) == 6


def test_what_was_asked_of_other_examples_is_not_compared(source, tmp_path):
    sections = {
        "r": {"kind": "retrieval", "source": source},
        "s": {"kind": "retrieval", "source": source, "captions": 1},
    }
    found = results(sections, tmp_path)
    with pytest.raises(AlignError, match="the same examples"):
        statistics.paired(found["r/image_to_text/R@1"].outcome, found["s/image_to_text/R@1"].outcome)


@pytest.fixture
def groups(tmp_path):
    """12 pictures of three groups, four of each, with texts of their own and of all groups; one is unreadable, one has
    no text, and one text belongs to the unreadable one alone."""
    rows = []
    for number in range(12):
        word = "abc"[number % 3]
        known_model.picture("y" if number == 7 else word).save(tmp_path / f"{number}.png")
        texts = [f"{word} {word}", "a b c" if number % 2 else word, " "]
        rows.append({"image": f"{number}.png", "texts": texts, "group": word})
    rows[6]["texts"] = ["z"]
    rows[6]["group"] = "alone"
    rows[7]["texts"] = []
    rows[7]["group"] = "mute"
    (tmp_path / "6.png").write_bytes(b"no picture")
    return write_manifest(tmp_path, rows)


def test_a_text_of_several_groups_is_right_for_each(groups, tmp_path):
    found = results({"r": {"kind": "retrieval", "source": groups, "at": (1, 10)}}, tmp_path)
    # "a b c" is right for any image with a text; each image scores highest with the texts of its group.
    assert found["r/image_to_text/R@1"].value == 1.0 and found["r/image_to_text/R@1"].n == 10
    assert found["r/text_to_image/R@1"].value == 1.0 and found["r/text_to_image/R@1"].n == 7
    blind = np.ones_like(PARAMS)
    blind = results({"r": {"kind": "retrieval", "source": groups, "at": (1, 10)}}, tmp_path, params=blind)
    assert blind["r/image_to_text/R@1"].value == 0.0, "all texts alike: nothing is retrieved"


def test_what_cannot_be_asked_is_counted_and_named(groups, tmp_path):
    found = results({"r": {"kind": "retrieval", "source": groups}}, tmp_path)
    for result in found.values():
        assert "11 images of 4 groups x 8 texts" in result.protocol
        assert "1 images left out: 6.png (image unreadable)" in result.protocol
        assert "1 images without a text not asked: 7.png" in result.protocol
        assert "1 texts without a readable image not asked: 'z'" in result.protocol


def test_no_readable_image_is_an_error(groups, tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(AlignError, match=r"found none of 12 readable \(image file missing\)"):
        results({"r": {"kind": "retrieval", "source": groups}}, tmp_path)


def test_a_fold_without_a_readable_image_is_an_error(groups, tmp_path):
    with pytest.raises(AlignError, match="a readable image with a text in each fold"):
        results({"r": {"kind": "retrieval", "source": groups, "folds": 6}}, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": "each"}, r"evals\.r\.texts: expected one of .*found 'each'"),
        ({"at": ()}, "`at` and folds above 0"),
        ({"at": (0, 1)}, "`at` and folds above 0"),
        ({"at": 5}, r"evals\.r\.at: expected a list of whole numbers, found 5"),
        ({"at": (1.5,)}, r"evals\.r\.at: expected a list of whole numbers"),
        ({"captions": 1.5}, r"evals\.r\.captions: expected a whole number, found 1\.5"),
        ({"folds": 2.0}, r"evals\.r\.folds: expected a whole number, found 2\.0"),
        ({"folds": 0}, "`at` and folds above 0"),
        ({"captions": -1}, "captions of 0 or more"),
        ({"folds": 61}, "in each of 61 folds, found 60 images and 180 texts"),
    ],
)
def test_wrong_options_are_refused(change, message, source, tmp_path):
    with pytest.raises(AlignError, match=message):
        evaluators({"r": {"kind": "retrieval", "source": source} | change}, tmp_path)


def test_ids_must_be_unique(tmp_path):
    rows = [{"image": f"{name}.png", "text": "a", "id": name} for name in ("x", "y", "x")]
    with pytest.raises(AlignError, match="no two the same, found 'x' at records 0 and 2"):
        evaluators({"r": {"kind": "retrieval", "source": write_manifest(tmp_path, rows)}}, tmp_path)
    with pytest.raises(AlignError, match="found none at record 1"):
        rows[1]["id"] = ""
        evaluators({"r": {"kind": "retrieval", "source": write_manifest(tmp_path, rows)}}, tmp_path)


def test_a_source_without_texts_is_refused(tmp_path):
    source = write_manifest(tmp_path, [{"image": "x.png", "texts": []}])
    with pytest.raises(AlignError, match=r"expected images with texts .*found 1 images and 0 texts"):
        evaluators({"r": {"kind": "retrieval", "source": source}}, tmp_path)


def test_panels_show_what_was_found(source, tmp_path):
    (made,) = evaluators({"r": {"kind": "retrieval", "source": source, "texts": "all", "seed": 3}}, tmp_path)
    assert not list(made.panels()), "nothing has run"
    found = {result.name: result for result in made.run(PARAMS, {})}
    to_images, to_texts, curves, batch, map_ = made.panels()
    with open(source["path"]) as file:
        captions = {row["image"]: row["texts"] for row in map(json.loads, file)}
    of = {text: [image for image, texts in captions.items() if text in texts] for x in captions.values() for text in x}
    assert len(to_images.rows) == len(to_texts.rows) == 8 and all(len(hits) == 6 for _, hits in to_images.rows)
    for query, hits in to_images.rows:
        assert query.text in of and not query.picture and all(hit.item.picture for hit in hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert sum(hit.right for hit in hits) <= 1, "a caption belongs to one image"
    for query, hits in to_texts.rows:
        assert query.picture and 0 <= sum(hit.right for hit in hits) <= 3
    line = dict(curves.lines["text to image"])
    assert list(line) == [1, 2, 5, 10, 20, 50] and line[5] == found["r/text_to_image/R@5"].value
    assert dict(curves.lines["image to text"])[10] == found["r/image_to_text/R@10"].value
    assert batch.scores.shape == (12, 12) and len({item.text for item in batch.columns}) == 12
    assert map_.embeddings.shape == (len(map_.items), 48) and set(map_.kinds) == {"image", "text"}
    again = next(iter(made.panels()))
    assert [query.text for query, _ in again.rows] == [query.text for query, _ in to_images.rows]


def published():
    """configs/evals/retrieval.py."""
    path = Path(__file__).parent.parent / "configs" / "evals" / "retrieval.py"
    return runpy.run_path(str(path))["get_config"]()


@pytest.mark.filterwarnings(r"ignore:.*label\(\) is deprecated:DeprecationWarning")  # tfds asks protobuf for it
@pytest.mark.parametrize("name", published())
def test_of_a_published_section_only_the_data_are_missing(name, tmp_path):
    """Its options and those of its source are known, and so are the data set, its split and its features."""
    section = published()[name]
    source = section.source
    source.data_dir = str(tmp_path)
    with pytest.raises(AlignError, match=rf"{source.dataset} is not prepared in {tmp_path}"):
        evaluators({name: section}, tmp_path)
    features = tfds.builder(source.dataset, data_dir=source.data_dir).info.features
    assert {source.texts, source.id, source.get("text_ids", source.id)} <= set(features)
    assert source.split in ("val", "test"), "of each of the four builders"


def test_published_sections_share_their_sources():
    sections = published()
    assert sections.coco_5k.source == sections.coco_1k.source == sections.crisscrossed.source
    assert {f"multi30k_{language}" for language in ("en", "de", "fr", "cs")} < set(sections)
