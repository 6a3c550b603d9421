"""Crisscrossed Captions over COCO as built by us, against loops over the csv files and scipy."""

import csv
import json

import known_model
import numpy as np
import pytest
from known_model import PARAMS, WORDS, evaluators, results
from scipy.stats import spearmanr

from align_jax import build
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.evals import crisscrossed_ratings, statistics
from align_jax.evals.crisscrossed_ratings import bootstrap
from align_jax.types import AlignError

# tfds asks protobuf for what protobuf 6 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*label\(\) is deprecated:DeprecationWarning")

IMAGES, CAPTIONS, RATINGS = 14, 5, 60
COLUMNS = {"sts": ("caption1", "caption2"), "sis": ("image1", "image2"), "sits": ("caption", "image")}


def file_name(number):
    return f"COCO_val2014_{number:012d}.jpg"


def sentence(number):
    return f"COCO_val2014:sentid:{number}"


def prepare(folder, broken=-1):
    """COCO's test split in `folder`, some images with a sixth caption, and its ratings; the options of the source."""
    rng = np.random.default_rng(0)
    (folder / "train2014").mkdir()
    (folder / "val2014").mkdir()
    images = []
    for number in range(IMAGES + 2):
        sentences = [
            {"raw": " ".join(rng.choice(WORDS[:9], 3)), "sentid": 10 * number + place}
            for place in range(CAPTIONS + (number % 5 == 0))
        ]
        picture = known_model.picture(sentences[0]["raw"], 0.5, rng)
        picture.resize((16, 16), 0).save(folder / "val2014" / file_name(number), quality=95)
        images.append({
            "filename": file_name(number), "filepath": "val2014", "cocoid": number, "sentences": sentences,
            "split": {IMAGES: "train", IMAGES + 1: "val"}.get(number, "test"),
        })  # fmt: skip
        if number == broken:
            (folder / "val2014" / file_name(number)).write_bytes(b"no picture")
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))
    build.build("coco_karpathy", folder, str(folder / "prepared"))
    for task, columns in COLUMNS.items():
        write(folder / f"{task}_test.csv", columns, ratings(task, rng))
    return {"name": "tfds", "dataset": "coco_karpathy", "split": "test", "data_dir": str(folder / "prepared"),
            "texts": "captions", "id": "image/filename", "text_ids": "sentence_ids"}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(folder, options of the source)."""
    folder = tmp_path_factory.mktemp("coco")
    return folder, prepare(folder)


def ratings(task, rng):
    """Random ones; those of captions with their own images name each of the five."""
    every = [(sentence(10 * i + j), file_name(i)) for i in range(IMAGES) for j in range(CAPTIONS)]
    draw = {
        "caption": lambda: sentence(10 * int(rng.integers(IMAGES)) + int(rng.integers(CAPTIONS))),
        "image": lambda: file_name(int(rng.integers(IMAGES))),
    }
    drawn = [tuple(draw[column.rstrip("12")]() for column in COLUMNS[task]) for _ in range(RATINGS)]
    pairs = drawn + every * (task == "sits")
    return [(*pair, round(float(rng.uniform(0, 5)), 1), "drawn") for pair in pairs if pair[0] != pair[1]]


def write(path, columns, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([(*columns, "agg_score", "sampling_method"), *rows])


def read(folder, task):
    with open(folder / f"{task}_test.csv", newline="") as file:
        return [(row[0], row[1], float(row[2])) for row in list(csv.reader(file))[1:]]


@pytest.fixture
def section(data, monkeypatch):
    """With the counts of our own files as those of the published version."""
    folder, source = data
    for task, of in crisscrossed_ratings.TASKS.items():
        counts = {"test": len(read(folder, task)), "val": 0}
        monkeypatch.setitem(crisscrossed_ratings.TASKS, task, of._replace(counts=counts))
    return {"kind": "crisscrossed", "source": source, "csv": str(folder), "split": "test", "at": (1, 3)}


@pytest.fixture(scope="module")
def embeddings(data):
    """{file name or sentence id: unit row}, {sentence id: file name} of the first five captions."""
    with open(data[0] / "dataset_coco.json") as file:
        images = [image for image in json.load(file)["images"] if image["split"] == "test"]
    one = known_model.embedder()
    paths = [str(data[0] / "val2014" / image["filename"]) for image in images]
    rows = dict(zip((image["filename"] for image in images), one.images(PARAMS, {}, paths)[0], strict=True))
    owners = {}
    for image in images:
        for spoken in image["sentences"][:CAPTIONS]:
            owners[sentence(spoken["sentid"])] = image["filename"]
            rows[sentence(spoken["sentid"])] = one.texts(PARAMS, {}, [spoken["raw"]])[0]
    return rows, owners


def slow_rank(query, candidates, right, rows):
    scores = {name: round(float(rows[query].astype(float) @ rows[name]), 5) for name in candidates if name != query}
    best = max(scores[name] for name in right)
    return sum(score >= best for name, score in scores.items() if name not in right)


def test_retrieval_merges_the_pairs_of_coco_with_those_rated_well(data, section, embeddings, tmp_path):
    rows, owners = embeddings
    right = {name: set() for name in rows}
    texts_of = {name: set() for name in rows}  # the same for images that captions find, and captions that images find
    for caption, image in owners.items():
        texts_of[image].add(caption)
        texts_of[caption].add(image)
        right[caption] |= {other for other in owners if owners[other] == image and other != caption}
    for task, least, of in (("sts", 3, right), ("sis", 2.5, right), ("sits", 3, texts_of)):
        for first, second, score in read(data[0], task):
            if score >= least:
                of[first].add(second)
                of[second].add(first)
    images = [name for name in rows if name not in owners]
    ways = {"image_to_text": (images, list(owners), texts_of), "text_to_image": (list(owners), images, texts_of),
            "image_to_image": (images, images, right), "text_to_text": (list(owners), list(owners), right)}  # fmt: skip
    found = results({"c": section}, tmp_path, devices=8)
    for way, (queries, candidates, of) in ways.items():
        places = np.array([slow_rank(query, candidates, of[query], rows) for query in queries if of[query]])
        for k in (1, 3):
            result = found[f"c/{way}/R@{k}"]
            assert result.value == pytest.approx(np.mean(places < k)) and result.n == len(places)
        assert found[f"c/{way}/median_rank"].value == np.median(places) + 1
        assert 0 < found[f"c/{way}/R@1"].value < 1
    assert "70 queries x 69 candidates" in found["c/text_to_text/R@1"].protocol
    assert "(3 captions that no rating names are left out)" in found["c/text_to_text/R@1"].protocol


def test_correlations_are_scipys_over_the_draws(data, section, embeddings, tmp_path):
    rows, _ = embeddings
    found = results({"c": section}, tmp_path)
    means = []
    for task in COLUMNS:
        rated = read(data[0], task)
        scores = np.array([float(rows[first] @ rows[second]) for first, second, _ in rated])
        human = np.array([score for *_, score in rated])
        ours = found[f"c/{task}"].outcome.values
        assert len(ours) == 1000 and found[f"c/{task}"].n == len(rated)
        # A draw is a sample of the whole, with fewer pairs; which pairs, the next test looks at.
        assert ours.mean() == pytest.approx(spearmanr(scores, human).statistic, abs=0.06)
        assert found[f"c/{task}_std"].value == pytest.approx(ours.std(), rel=1e-4)
        means.append(found[f"c/{task}"].value)
        names = [[second] if task == "sits" else [first, second] for first, second, _ in rated]
        known = sorted({name for both in names for name in both}, key=lambda name: (len(name), name))
        order = {name: place for place, name in enumerate(known)}
        pairs = [(order[both[side]], number) for side in range(len(names[0])) for number, both in enumerate(names)]
        drawn = np.concatenate(list(bootstrap(*np.array(pairs).T, 1000, 0)))
        expected = [spearmanr(scores[part], human[part]).statistic for part in drawn[:50]]
        np.testing.assert_allclose(ours[:50], expected, atol=1e-6)
    assert found["c/mean_correlation"].value == pytest.approx(np.mean(means), rel=1e-6)


def test_a_draw_is_one_rating_each_of_half_of_the_queries():
    rng = np.random.default_rng(0)
    queries = rng.integers(7, size=40) * 3
    ratings = rng.permutation(40)
    owner = dict(zip(ratings.tolist(), queries.tolist(), strict=True))
    drawn = np.concatenate(list(bootstrap(queries, ratings, 3000, seed=1)))
    assert drawn.shape == (3000, 3)
    assert all(len({owner[number] for number in row}) == 3 for row in drawn.tolist())
    for query in set(owner.values()):
        own = [number for number, of in owner.items() if of == query]
        counts = np.array([(drawn == number).sum() for number in own])
        # Each query in 3 of 7 draws, its ratings as often as one another: five standard deviations.
        assert abs(counts.sum() - 3000 * 3 / 7) < 5 * np.sqrt(3000 * 12 / 49)
        assert (abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()


def test_numbers_are_the_same_on_one_and_eight_devices_and_draws_for_all_models(section, tmp_path):
    one, eight = results({"c": section}, tmp_path), results({"c": section}, tmp_path, devices=8)
    for name, result in one.items():
        assert result._replace(outcome=None) == eight[name]._replace(outcome=None)
        if not name.endswith("_std"):
            assert np.array_equal(result.outcome.values, eight[name].outcome.values)
    other = results({"c": section}, tmp_path, params=np.ones_like(PARAMS))
    difference = statistics.paired(other["c/sits"].outcome, one["c/sits"].outcome)
    assert other["c/sts"].value == 0.0, "equal scores order nothing"
    assert difference.value == pytest.approx(one["c/sits"].value - other["c/sits"].value, abs=1e-6)


def test_a_text_that_lost_its_id_is_a_bad_example(tmp_path):
    sentences = [{"raw": raw, "sentid": number} for number, raw in enumerate(("a", " ", "b"))]
    (tmp_path / "train2014").mkdir()
    (tmp_path / "val2014").mkdir()
    images = [
        {"filename": file_name(i), "filepath": "val2014", "cocoid": i, "sentences": sentences[i:], "split": split}
        for i, split in enumerate(("train", "val", "test"))
    ]
    for image in images:
        known_model.picture("a").save(tmp_path / "val2014" / image["filename"])
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    build.build("coco_karpathy", tmp_path, str(tmp_path))
    options = {"name": "tfds", "dataset": "coco_karpathy", "data_dir": str(tmp_path), "texts": "captions",
               "text_ids": "sentence_ids"}  # fmt: skip
    with pytest.raises(BadExample, match="texts and text ids differ in number"):
        sources.make(split="train", **options)[0]
    assert sources.make(split="train", **options).about(0).text_ids == ()
    assert sources.make(split="test", **options)[0].text_ids == ("2",)


def test_an_image_that_cannot_be_read_ends_the_evaluation(section, tmp_path):
    (made,) = evaluators({"c": section | {"source": prepare(tmp_path, broken=3)}}, tmp_path)
    with pytest.raises(AlignError, match=rf"all 14 images, found 1 .* as {file_name(3)} \(image unreadable\)"):
        list(made.run(PARAMS, {}))


def test_the_panel_shows_recall_of_four_ways(section, tmp_path):
    (made,) = evaluators({"c": section}, tmp_path)
    assert not list(made.panels())
    found = {result.name: result.value for result in made.run(PARAMS, {})}
    (curves,) = made.panels()
    assert {way: dict(line)[1] for way, line in curves.lines.items()} == {
        name.split("/")[1].replace("_", " "): value for name, value in found.items() if name.endswith("R@1")
    }


def test_ratings_of_another_version_are_refused(data, section, tmp_path):
    folder, source = data
    one = {"c": section}
    with pytest.raises(AlignError, match=r"expected split val or test .* found 'train'"):
        evaluators({"c": section | {"split": "train"}}, tmp_path)
    with pytest.raises(AlignError, match=r"sts_test\.csv: expected UTF-8 text, found .*No such file"):
        evaluators({"c": section | {"csv": str(tmp_path)}}, tmp_path)
    with pytest.raises(AlignError, match=r"70 of 70 captions missing, as 0; give Karpathy's split test of COCO"):
        evaluators({"c": section | {"source": source | {"text_ids": None}}}, tmp_path)
    with pytest.raises(AlignError, match=r"14 of 14 images missing, as COCO_val2014_000000000000\.jpg; give Karpathy"):
        evaluators({"c": section | {"source": source | {"id": "id"}}}, tmp_path)
    with pytest.raises(AlignError, match=r"has no feature 'sentids'"):
        evaluators({"c": section | {"source": source | {"text_ids": "sentids"}}}, tmp_path)
    for task in COLUMNS:
        (tmp_path / f"{task}_test.csv").write_bytes((folder / f"{task}_test.csv").read_bytes())
    with open(tmp_path / "sis_test.csv", "a") as file:
        file.write(f"{file_name(1)},{file_name(2)},3.5,drawn\n")
    with pytest.raises(AlignError, match=r"sis_test\.csv: expected the (\d+) ratings of the published version, found"):
        evaluators({"c": section | {"csv": str(tmp_path)}}, tmp_path)
    write(tmp_path / "sis_test.csv", ("image1", "image2", "sd"), [])
    with pytest.raises(AlignError, match=r"sis_test\.csv: expected the columns \['image1', 'image2', 'agg_score'"):
        evaluators({"c": section | {"csv": str(tmp_path)}}, tmp_path)
    assert evaluators(one, tmp_path), "and those of this one are not"


class Twice(sources.Source):
    """All records of a source, twice."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return 2 * len(self._source)

    def __getitem__(self, index):
        return self._source[index % len(self._source)]


def test_ids_that_stand_twice_are_refused(data, section):
    twice = Twice(known_model.embedder().open(section["source"]))
    with pytest.raises(AlignError, match=rf"x: expected ids that are unique, found those of '{file_name(0)}' again"):
        crisscrossed_ratings.read(twice, data[0], "test", where="x")
