"""Queries of images plus and minus texts: their arithmetic, and the evaluator."""

import json

import known_model
import numpy as np
import pytest
from known_model import PARAMS

from align_jax.evals import statistics
from align_jax.evals.query import compose
from align_jax.types import AlignError

NONE = np.zeros((0, 2), np.float32)
RIGHT, UP = np.array([[3, 0]], np.float32), np.array([[0, 0.5]], np.float32)


def test_compose_is_the_unit_weighted_sum_of_unit_rows():
    np.testing.assert_allclose(compose(RIGHT, [1], UP, [2]), np.array([1, 2]) / np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(compose(RIGHT, [0.5], UP, [-0.5]), np.array([1, -1]) / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(compose(NONE, [], UP, [0.01]), [0, 1])
    assert compose(RIGHT, [1], NONE, []).dtype == np.float32


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ((NONE, [], NONE, []), "found none"),
        ((RIGHT, [0], UP, [0.0]), "found none"),
        ((RIGHT, [1], RIGHT, [-1]), "cancel"),
        ((RIGHT, [], UP, [1, 1]), "found 0 and 2"),
        ((RIGHT, [1], UP, [1, 1]), "found 1 and 2"),
        ((RIGHT, [float("nan")], UP, [1]), "finite"),
        ((0 * RIGHT, [1], UP, [1]), "not zero"),
    ],
)
def test_compose_refuses_what_has_no_direction(query, message):
    with pytest.raises(AlignError, match=message):
        compose(*query)


WORDS = ("a", "b", "c", "d", "e")


@pytest.fixture
def source(tmp_path):
    """A picture of each word and of each two; the last one, of d and e, is unreadable."""
    names = [*WORDS, *(f"{x} {y}" for i, x in enumerate(WORDS) for y in WORDS[i + 1 :])]
    for name in names:
        known_model.picture(name).save(tmp_path / f"{name}.png")
    (tmp_path / "d e.png").write_bytes(b"no picture")
    return known_model.write_manifest(tmp_path, [{"image": f"{n}.png", "texts": [], "id": n} for n in names])


def section(source, tmp_path, *rows):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (tmp_path / "queries.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return {"q": {"kind": "composed", "source": source, "queries": str(tmp_path / "queries.jsonl"), "at": (1, 3)}}


ROWS = (
    {"image": "a", "plus": ["b"], "answer": ["a b"]},
    {"image": "a c", "minus": ["c"], "plus": ["b", "d"], "text_weight": 0.5, "answer": ["a b", "a d"]},
    {"image": "other.png", "plus": ["e"], "answer": ["c e", "a e"]},
    {"image": "d", "plus": ["b"], "text_weight": 0.1, "answer": ["b d"]},
    {"plus": ["d"], "minus": ["a"]},
    {"image": "b", "answer": ["d e"]},
)


@pytest.mark.parametrize("devices", [1, 8])
def test_queries_find_what_the_definition_finds(source, tmp_path, devices):
    known_model.picture("c").save(tmp_path / "other.png")
    sections = section(source, tmp_path, *ROWS)
    found = known_model.results(sections, tmp_path, devices)
    one = known_model.embedder()
    names = [record.id for record in map(one.open(source).about, range(15))]
    paths = [str(tmp_path / f"{name}.png") for name in (*names[:14], "other")]
    pictures = dict(zip((*names[:14], "other.png"), one.images(PARAMS, {}, paths)[0].astype(float), strict=True))
    ranks = []
    for row in ROWS[:4]:
        weight = row.get("text_weight", 2.0)
        texts = {text: one.texts(PARAMS, {}, [text])[0].astype(float) for text in (*row["plus"], *row.get("minus", ()))}
        query = pictures[row["image"]] + weight * sum(texts[text] for text in row["plus"])
        query -= weight * sum((texts[text] for text in row.get("minus", ())), np.zeros(48))
        scores = {name: round(query @ pictures[name] / np.linalg.norm(query), 6) for name in names[:14]}
        scores.pop(row["image"], None)
        best = max(scores[name] for name in row["answer"])
        ranks.append(sum(score >= best for name, score in scores.items() if name not in row["answer"]))
    assert found["q/R@1"].value == pytest.approx(np.mean(np.array(ranks) < 1)) and found["q/R@1"].n == 4
    assert found["q/R@3"].value == pytest.approx(np.mean(np.array(ranks) < 3))
    places = found["q/median_rank"]
    assert places.outcome.values.tolist() == [rank + 1 for rank in ranks] and len(set(ranks)) > 1
    assert places.value == np.median(ranks) + 1 == statistics.estimate(places.outcome)
    assert "4 of 6 queries, those with an answer, x 14 images" in found["q/R@1"].protocol
    assert "1 images left out: d e (image unreadable)" in found["q/R@1"].protocol


def test_the_grid_shows_each_query_without_its_own_image(source, tmp_path):
    known_model.picture("c").save(tmp_path / "other.png")
    (made,) = known_model.evaluators(section(source, tmp_path, *ROWS), tmp_path)
    assert not list(made.panels())
    assert len(list(made.run(PARAMS, {}))) == 3
    (grid,) = made.panels()
    assert [item.text for item, _ in grid.rows] == ["+ b", "+ b + d - c", "+ e", "+ b", "+ d - a", ""]
    assert [bool(item.picture) for item, _ in grid.rows] == [True, True, True, True, False, True]
    assert [len(hits) for _, hits in grid.rows] == [6] * 6
    first = [hit.right for hit in grid.rows[0][1]]
    assert first == [True] + [False] * 5, "a + b is nearest to the picture of both"
    own = made.panels()
    assert all(hit.item.picture != query.picture for query, hits in next(own).rows[:2] for hit in hits)


def test_queries_without_answers_are_only_shown(source, tmp_path):
    (made,) = known_model.evaluators(section(source, tmp_path, {"plus": ["b"]}), tmp_path)
    assert not list(made.run(PARAMS, {}))
    (grid,) = made.panels()
    assert len(grid.rows) == 1 and not any(hit.right for hit in grid.rows[0][1])


def test_parts_that_cancel_are_told_with_their_line(source, tmp_path):
    sections = section(source, tmp_path, {"plus": ["b"]}, {"plus": ["b"], "minus": ["b"]})
    with pytest.raises(AlignError, match=r"queries\.jsonl:2: query: expected parts that do not cancel"):
        known_model.results(sections, tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("no json", r"queries\.jsonl:1: expected \{\"image\""),
        ({"plus": ["b"], "mnus": ["c"]}, "unknown key 'mnus'; did you mean 'minus'"),
        ({"image": "", "plus": []}, "expected an image, or texts in plus or minus"),
        ({"plus": ["b", " "]}, "expected plus to be a list of texts that are not empty"),
        ({"plus": "b"}, "expected plus to be a list of texts"),
        ({"image": 7}, "expected an image"),
        ({"image": "nowhere.png"}, r"found 'nowhere\.png' \(image file missing\)"),
        ({"image": "d e"}, r"found 'd e' \(image unreadable\)"),
        ({"plus": ["b"], "text_weight": 0}, "expected a text_weight above 0, found 0"),
        ({"plus": ["b"], "text_weight": True}, "found True"),
        ({"plus": ["b"], "answer": []}, "ids of other records, found"),
        ({"plus": ["b"], "answer": ["z"]}, r"ids of other records, found \['z'\]"),
        ({"image": "a", "plus": ["b"], "answer": ["a"]}, r"ids of other records, found \['a'\]"),
        ("", "expected at least one query, found none"),
    ],
)
def test_wrong_queries_are_refused_before_anything_runs(row, message, source, tmp_path):
    with pytest.raises(AlignError, match=message):
        known_model.evaluators(section(source, tmp_path, row), tmp_path)


def test_a_file_that_is_not_there_is_refused(source, tmp_path):
    sections = {"q": {"kind": "composed", "source": source, "queries": str(tmp_path / "none.jsonl")}}
    with pytest.raises(AlignError, match=r"none\.jsonl: expected a jsonl file of queries, found .*No such file"):
        known_model.evaluators(sections, tmp_path)
