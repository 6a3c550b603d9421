"""Hard negatives: the nearest of what does not belong together, against plain numpy, and the verb that mines them."""

import json
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapes_run

import align_jax
from align_jax import provenance, sharding
from align_jax.data import hard_negatives
from align_jax.data import source as sources
from align_jax.data.negatives import Negatives
from align_jax.evals import mining
from align_jax.evals.mining import Belonging, nearest
from align_jax.mine import mine
from align_jax.types import AlignError
from align_jax.weights import digest

RECORDS, TEXTS, MOST = 40, 30, 6


@pytest.fixture(scope="module")
def belonging():
    """40 images in 25 groups, a third of them in one that has most of the 30 texts, among them one without a text."""
    rng = np.random.default_rng(3)
    groups = np.where(np.arange(RECORDS) % 3 == 0, 0, rng.integers(1, 25, RECORDS))
    pairs = {(image, int(text)) for image in range(RECORDS) for text in rng.integers(0, TEXTS, 1 + image % 3)}
    groups[7] = 0
    pairs |= {(0, text) for text in range(TEXTS - 4)}
    return groups, np.array(sorted(pair for pair in pairs if pair[0] != 7))


def by_hand(queries, candidates, asked, refused):
    """[[(candidate, score)] best first] of each record, pair by pair."""
    found = []
    for record in range(RECORDS):
        own = queries[[query for of, query in asked if of == record]]
        scores = {
            other: float((own @ candidates[other]).max())
            for other in range(len(candidates)) if len(own) and not refused(record, other)
        }  # fmt: skip
        found.append(sorted(scores.items(), key=lambda item: -item[1])[:MOST])
    return found


@pytest.mark.parametrize(("way", "devices"), [("texts", 1), ("images", 8)])
def test_the_nearest_that_do_not_belong_are_those_of_numpy(belonging, way, devices, monkeypatch):
    monkeypatch.setattr(mining, "ENTRIES", 100)  # in many parts, of which some must ask for more
    groups, pairs = belonging
    rng = np.random.default_rng(4)
    images, texts = (rng.normal(size=(count, 5)).astype(np.float32) for count in (RECORDS, TEXTS))
    owned = {(group, text) for group in set(groups) for image, text in pairs if groups[image] == group}
    of = {image: {text for one, text in pairs if one == image} for image in range(RECORDS)}

    def refused(record, other):
        if way == "texts":
            return (groups[record], other) in owned
        return groups[record] == groups[other] or any((groups[record], text) in owned for text in of[other])

    each = np.stack([np.arange(RECORDS)] * 2, axis=1)
    queries, candidates, asked = (images, texts, each) if way == "texts" else (texts, images, pairs)
    expected = by_hand(queries, candidates, asked.tolist(), refused)
    found = nearest(
        sharding.make_mesh(devices=devices), queries, candidates, asked,
        getattr(Belonging(groups, pairs, TEXTS), way), records=RECORDS, most=MOST, title="",
    )  # fmt: skip
    assert {len(row) for row in expected} > {MOST}, "some have fewer"
    for record, row in enumerate(expected):
        count = len(row)
        assert found.candidates[record].tolist() == [other for other, _ in row] + [-1] * (MOST - count)
        np.testing.assert_allclose(found.scores[record, :count], [score for _, score in row], atol=1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The run's 16 pictures, two of which show the same; a text twice, one without a word, and a broken picture."""
    folder = tmp_path_factory.mktemp("mined")
    rows = [json.loads(line) for line in shapes_run.write_pairs(folder).read_text().splitlines()]
    rows[0]["group"] = rows[1]["group"] = "both"
    rows[2]["texts"] = ["RED  cross", "\u200b", " "]
    rows[5]["texts"].append("red cross")
    (folder / "broken.png").write_bytes(b"no picture")
    rows.append({"image": "broken.png", "texts": ["an orange ellipse in pieces"], "group": "both"})
    path = folder / "mined.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def expected_table(model, data, top, skip):
    """{id: (texts, their scores, images, their scores)}, by all cosines."""
    source = sources.make(name="manifest", path=str(data))
    records = [source[number] for number in range(len(source))]
    texts = {}
    for record in records:
        for text in record.texts:
            if text.strip("\u200b "):
                texts.setdefault(" ".join(text.lower().split()), text)
    right = {
        record.id: {" ".join(text.lower().split()) for other in records if other.group == record.group
                    for text in other.texts} for record in records
    }  # fmt: skip
    readable = [record for record in records if record.id != "broken.png"]
    cosines = model.similarity([record.image for record in readable], list(texts.values()))
    found = {}
    for number, record in enumerate(readable):
        others = {key: cosines[number, place] for place, key in enumerate(texts) if key not in right[record.id]}
        own = [place for place, key in enumerate(texts) if key in {" ".join(t.lower().split()) for t in record.texts}]
        images = {
            other.id: cosines[place, own].max() for place, other in enumerate(readable)
            if other.group != record.group and not right[record.id] & {" ".join(t.lower().split()) for t in other.texts}
        }  # fmt: skip
        row = []
        for kind in ({texts[key]: value for key, value in others.items()}, images):
            best = sorted(kind, key=lambda name: -kind[name])[skip : skip + top]
            row += [best, [kind[name] for name in best]]
        found[record.id] = row
    return found


def test_the_verb_writes_the_table(finished_run, model, data, tmp_path):
    out = tmp_path / "new" / "negatives.parquet"
    arguments = (f"--model={finished_run}", f"--data={data}", f"--out={out}", "--top=14", "--skip=1")
    told, _ = shapes_run.finish("align_jax.mine", *arguments)
    expected = expected_table(model, data, 14, 1)
    table = pq.read_table(out)
    assert table["id"].to_pylist() == list(expected) and len(expected) == 16
    for row in table.to_pylist():
        texts, text_scores, images, image_scores = expected[row["id"]]
        assert row["texts"] == texts and row["images"] == images
        np.testing.assert_allclose(row["text_scores"], text_scores, atol=1e-5)
        np.testing.assert_allclose(row["image_scores"], image_scores, atol=1e-5)
    assert {len(row) for row in table["texts"].to_pylist()} == {14}
    assert {len(row) for row in table["images"].to_pylist()} == {13, 14}, "others than both of a group: all but one"
    source = sources.make(name="manifest", path=str(data))
    assert hard_negatives.read_facts(out) == {
        "model": digest(model.params, model.model_state), "data": provenance.digest(source), "records": 17, "top": 14,
        "skip": 1,
    }  # fmt: skip
    lengths = np.mean([len(row) for row in table["images"].to_pylist()])
    assert told.strip() == (
        f"{out}: 16 of 17 records, on average with 14.0 texts and {lengths:.1f} images, 1 images left out: broken.png "
        "(image unreadable), 2 texts without a word"
    )
    assert [path.name for path in out.parent.iterdir()] == [out.name], "no partial file"
    negatives = Negatives(source, path=str(out))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert negatives.text(source[3], rng) in expected[source[3].id][0]
        assert negatives.image(source[3], source[3].texts[0], rng).id in expected[source[3].id][2]


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run)


def lines(data, tmp_path, keep):
    """A source of some of the rows, changed by `keep`."""
    rows = [json.loads(line) for line in data.read_text().splitlines()[:4]]
    path = Path(tmp_path) / "some.jsonl"
    images = data.parent
    path.write_text("".join(json.dumps(keep(row)) + "\n" for row in rows))
    return sources.make(name="manifest", path=str(path), images=str(images))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"group": "one"},
            r"^--data: expected records of several groups, found no negative among 4 of 1; lower --skip",
        ),
        ({"texts": ["\u200b"]}, r"^--data: expected records with texts, found none among 4$"),
        ({"id": "same"}, r"^--data: expected an id for each record, no two the same, found 'same' at records 0 and 1$"),
    ],
)
def test_what_cannot_be_mined_is_one_line(model, data, tmp_path, change, error):
    source = lines(data, tmp_path, lambda row: row | change)
    with pytest.raises(AlignError, match=error):
        mine(model, source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_folder_is_no_file(model, data, tmp_path):
    with pytest.raises(AlignError, match=r"^--out: expected a file to write, found the folder .*; name one in it$"):
        mine(model, sources.make(name="manifest", path=str(data)), tmp_path)


def test_a_model_that_embeds_nothing_is_refused(data, tmp_path):
    model = types.SimpleNamespace(functions=("image_tokens", "score_pairs"))
    with pytest.raises(AlignError, match=r"^--model: expected one with embed_images, found one with image_tokens, "):
        mine(model, sources.make(name="manifest", path=str(data)), tmp_path / "out.parquet")
