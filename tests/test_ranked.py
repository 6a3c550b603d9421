"""Rows of fine-tuning on retrieval: whose pair, which negatives, from where; and the loss of the task on such rows."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from align_jax import files, provenance, sharding
from align_jax.config import call
from align_jax.data import examples, hard_negatives, ranked
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.data.text import SPECIAL
from align_jax.tasks import imagebert_retrieval
from align_jax.types import AlignError

WORDS = tuple("abcdefghijklmnop")
COUNT = 12  # records; 0 and 1 are of one group, 2 and 3 have a text in common, the picture of 4 is none
BROKEN = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Record i is a picture of the one grey 20 * i, with the texts 'i-th word' and that twice."""
    folder = tmp_path_factory.mktemp("ranked")
    rows = []
    for number, word in enumerate(WORDS[:COUNT]):
        Image.new("RGB", (8, 8), (20 * number,) * 3).save(folder / f"{number}.png")
        group = "pair" if number < 2 else f"group{number}"
        texts = [word, f"{word} {word}"] + (["P  p" if number == 2 else "p P"] if number in (2, 3) else [])
        rows.append({"id": f"n{number}", "image": f"{number}.png", "texts": texts, "group": group})
    (folder / f"{BROKEN}.png").write_bytes(b"no picture")
    (folder / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.make(name="manifest", path=str(folder / "pairs.jsonl"))


def rows_of(source, *, negatives=None, **options):
    """The examples of kind "ranked"."""
    folder = Path(source[0].image).parent
    vocab = {"size": len(SPECIAL) + len(WORDS), "path": str(folder / "vocab.txt")}
    section = {"vocab": vocab, "text_length": 6, "resize": 8, "crop": 8, "negatives": negatives or {}, **options}
    return call(examples.KINDS["ranked"], section, where="config.data", source=source, folder=folder)


def visit(rows, number, seed):
    """({record of each image}, [text of each place]) of one visit to record `number`."""
    row = rows.train(rows.negatives._source[number], np.random.default_rng(seed))
    assert row["image"].dtype == np.uint8 and row["image"].shape[1:] == (8, 8, 3)
    assert row["text_ids"].dtype == np.int32 and row["text_mask"].dtype == bool
    words = [
        " ".join(WORDS[place - len(SPECIAL)] for place in ids[mask][1:-1])
        for ids, mask in zip(row["text_ids"], row["text_mask"], strict=True)
    ]
    return [int(image.mean()) // 20 for image in row["image"]], words


def owners(text):
    """The records that have a text."""
    return {2, 3} if text == "p p" else {WORDS.index(text[0])}


def related(number):
    """The records that show the same."""
    return {0, 1} if number < 2 else {number}


@pytest.mark.parametrize(("directions", "images", "texts"), [("both", 4, 4), ("text", 1, 4), ("image", 4, 1)])
def test_the_pair_is_first_and_no_negative_belongs_to_it(source, directions, images, texts):
    rows = rows_of(source, candidates=4, directions=directions)
    assert rows.places == (images, texts)
    seen = set()
    for seed in range(150):
        for number in (0, 2, 7):
            shown, words = visit(rows, number, seed)
            assert (len(shown), len(words)) == (images, texts)
            assert shown[0] == number and number in owners(words[0])
            assert len(set(shown)) == images and len(set(words)) == texts, "negatives differ from one another"
            for other in shown[1:]:
                assert other not in related(number) | owners(words[0])
            for text in words[1:]:
                assert not owners(text) & related(number)
            seen |= set(shown[1:]) | {("text", text) for text in words[1:]}
    assert BROKEN not in seen, "a negative that cannot be read is drawn again"
    assert len(seen) == (COUNT - 1) * (images > 1) + (2 * COUNT + 1) * (texts > 1), "all others come up"


def test_a_visit_depends_on_its_numbers_alone(source):
    rows = rows_of(source, candidates=3)
    first, again, other = (rows.train(source[5], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)
    assert list(rows_of(source).train(source[5], np.random.default_rng(1))["image"].shape) == [2, 8, 8, 3]


def test_a_record_that_cannot_be_used_is_named_by_its_reason(source):
    rows = rows_of(source)
    with pytest.raises(BadExample, match=r"^image unreadable$"):
        rows.train(source[BROKEN], np.random.default_rng(0))
    with pytest.raises(BadExample, match=r"^no negative image found$"):
        rows_of(source, candidates=COUNT, directions="image").train(source[7], np.random.default_rng(0))


@pytest.fixture(scope="module")
def table(source, tmp_path_factory):
    """Of record 7, four texts and two records, one of them the broken one; of no other."""
    path = tmp_path_factory.mktemp("mined") / "negatives.parquet"
    row = {"id": ["n7"], "texts": [["a", "b b", "G", "P p"]], "images": [["n9", f"n{BROKEN}"]]}
    row |= {"text_scores": [[0.4, 0.3, 0.2, 0.1]], "image_scores": [[0.9, 0.8]]}
    hard_negatives.write(path, [row], {"top": 4})
    assert hard_negatives.read_facts(path) == {"top": 4}
    return str(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mined_negatives_come_at_the_share_asked(source, table, share):
    rows = rows_of(source, negatives={"path": table, "hard": share})
    found = [visit(rows, 7, seed) for seed in range(400)]
    texts = np.mean([words[1] in ("a", "b b", "g", "p p") for _, words in found])
    images = np.mean([shown[1] == 9 for shown, _ in found])
    # Random ones are among them too: 4 of 23 texts, 1 of the 10 readable records.
    np.testing.assert_allclose(texts, share + (1 - share) * 4 / 23, atol=0.06)
    np.testing.assert_allclose(images, share + (1 - share) * 1 / 10, atol=0.06)
    assert {visit(rows, 8, seed)[1][1] for seed in range(100)} > {"a", "b", "g g"}, "not in the table: random"


def test_mined_negatives_run_out(source, table):
    rows = rows_of(source, candidates=6, negatives={"path": table})
    for seed in range(20):
        shown, words = visit(rows, 7, seed)
        assert shown[1] == 9 and set(words[1:5]) == {"a", "b b", "g", "p p"}
        assert len(set(shown)) == len(set(words)) == 6


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"candidates": 1}, r"config\.data\.candidates: expected at least 2, .*, found 1$"),
        ({"directions": "texts"}, r"config\.data\.directions: expected one of .*, found 'texts'$"),
        ({"negatives": {"hard": 2.0}}, r"config\.data\.negatives\.hard: expected a share of 0 to 1, found 2\.0$"),
        (
            {"negatives": {"path": "none.parquet"}},
            r"negatives\.path: expected a file of align_jax\.mine, found no none",
        ),
        ({"negatives": {"path": __file__}}, r"expected a parquet file with columns id, texts, images, found none in"),
    ],
)
def test_mistakes_are_one_line(source, options, error):
    with pytest.raises(AlignError, match=error) as caught:
        rows_of(source, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("own", "images"), [("stranger", ["n1"]), ("n1", ["stranger", "n2"])])
def test_a_table_of_another_source_is_refused(source, tmp_path, own, images):
    row = {"id": [own], "texts": [["a"]], "images": [images], "text_scores": [[0.1]]}
    hard_negatives.write(tmp_path / "t.parquet", [row | {"image_scores": [[0.1] * len(images)]}], {})
    with pytest.raises(AlignError, match=r"found 1 records that are not in it, such as 'stranger', in .*mine them"):
        rows_of(source, negatives={"path": str(tmp_path / "t.parquet")})


def test_a_run_goes_on_with_its_own_negatives(source, tmp_path):
    """Its run.json tells them by their digest, which no other table has."""
    table, found = tmp_path / "t.parquet", []
    for text in "ab":
        row = {"id": ["n1"], "texts": [[text]], "images": [["n2"]], "text_scores": [[0.1]], "image_scores": [[0.1]]}
        hard_negatives.write(table, [row], {})
        found.append(rows_of(source, negatives={"path": str(table)}).reads)
    assert set(found[0]) == {"hard negatives"} and rows_of(source).reads == {}
    path = tmp_path / "run.json"
    provenance.refuse_other_reads(found[0], path)
    files.write_json(path, provenance.describe(source, found[0]))
    provenance.refuse_other_reads(found[0], path)
    with pytest.raises(AlignError, match=r"holds a run on hard negatives of digest \w+, now found \w+; give another"):
        provenance.refuse_other_reads(found[1], path)


def task_of(**options):
    """Without dropout: what training computes is what inference does."""
    text = {
        "size": "tiny",
        "layers": 1,
        "width": 16,
        "heads": 2,
        "mlp_width": 32,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    sizes = {"regions": {"width": 6, "most": 3}, "image_size": None, "text_length": 6, "vocab_size": 32}
    own = {"binary": 0.5, "multi_class": 2.0, "triplet": 3.0, "margin": 0.1, **options}
    places = own.pop("places", ranked.places(candidates=3))
    encoder = {"text": text, "micro_batches": own.pop("micro_batches", 1)}
    return imagebert_retrieval.build(places=places, encoder=encoder, sizes=sizes, **own)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_loss_is_that_of_the_scores_of_its_pairs(micro_batches):
    task, rows = task_of(micro_batches=micro_batches), 4
    batch = task.dummy_batch(rows)
    params, state = task.init(jax.random.key(0), batch)
    params = jax.tree.map(lambda x: 5 * x, params)  # so that scores differ, and do not saturate
    score = jax.jit(task.functions()["score_pairs"])

    def pair(image, text):
        visual = {name: batch[name][:, image] for name in ("regions", "boxes", "region_mask")}
        texts = {name: batch[name][:, text] for name in ("text_ids", "text_mask")}
        return np.asarray(score(params, state, visual | texts), np.float64)

    own = pair(0, 0)
    others = np.stack([pair(0, 1), pair(0, 2), pair(1, 0), pair(2, 0)], axis=1)
    assert np.ptp(others, axis=1).min() > 0.05, "each pair has a score of its own"
    tables = [np.column_stack([own, others[:, :2]]), np.column_stack([own, others[:, 2:]])]
    assert min(np.abs(own - table[:, 1:].max(1)).min() for table in tables) > 0.01, (
        "nor does rounding say which is best"
    )
    expected = {
        "binary": (np.log1p(np.exp(-own)).sum() + np.log1p(np.exp(others)).sum()) / (5 * rows),
        "multi_class": np.mean([np.log(np.exp(t).sum(1)) - t[:, 0] for t in tables]),
        "triplet": np.mean([np.maximum(0, 0.1 - t[:, 0] + t[:, 1:].max(1)) for t in tables]),
        "image_to_text_accuracy": np.mean(own > tables[0][:, 1:].max(1)),
        "text_to_image_accuracy": np.mean(own > tables[1][:, 1:].max(1)),
    }
    expected["loss"] = 0.5 * expected["binary"] + 2 * expected["multi_class"] + 3 * expected["triplet"]
    mesh = sharding.make_mesh(devices=1)
    with jax.set_mesh(mesh):
        placed = sharding.place(mesh, batch)
        found, aux = jax.jit(task.loss)(params, state, (), placed, jax.random.key(1), np.int32(0))
    np.testing.assert_allclose(found, expected["loss"], rtol=1e-5)
    assert set(aux.metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(aux.metrics[name].compute(), value, rtol=1e-5, err_msg=name)
    assert aux.metrics["binary"].count == 5 * rows and aux.metrics["triplet"].count == 2 * rows


@pytest.mark.parametrize(("rows", "fits"), [(2, True), (3, False)])
def test_micro_batches_have_whole_rows(rows, fits):
    task = task_of(micro_batches=2, places=ranked.places(candidates=2))
    if fits:
        return task.check(rows)
    with pytest.raises(AlignError, match=r"a multiple of micro_batches \(2\) x .* rows, found 3; change"):
        task.check(rows)


def test_one_direction_and_one_loss():
    task = task_of(places=ranked.places(candidates=4, directions="text"), multi_class=0.0, triplet=0.0, binary=1.0)
    batch = task.dummy_batch(8)
    assert batch["regions"].shape == (8, 1, 3, 6) and batch["text_ids"].shape == (8, 4, 6)
    np.testing.assert_allclose(task.chance(8), -0.25 * np.log(0.25) - 0.75 * np.log(0.75))
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        params, state = jax.eval_shape(lambda key: task.init(key, batch), jax.random.key(0))
        _, aux = jax.eval_shape(task.loss, params, state, (), batch, jax.random.key(1), np.int32(0))
    assert set(aux.metrics) == {"loss", "binary", "image_to_text_accuracy"}


@pytest.mark.parametrize("options", [{"binary": 0.0, "multi_class": 0.0, "triplet": 0.0}, {"triplet": -1.0},
                                     {"margin": -0.1}])  # fmt: skip
def test_weights_that_cannot_be(options):
    with pytest.raises(AlignError, match=r"config\.task: expected weights binary, multi_class and triplet of at least"):
        task_of(**options)
