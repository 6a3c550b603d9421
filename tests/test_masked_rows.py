"""Rows of masked pre-training: what is hidden of a text, and what is no pair."""

import collections

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_run

from align_jax.data import masked, masking
from align_jax.data import source as sources
from align_jax.data.negatives import Negatives
from align_jax.data.source import BadExample, Record
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.types import AlignError

PIECES = [*SPECIAL, "red", "green", "fire", "##works", "##man", "engine", "a", "of"]
TOKENIZER = WordPiece(PIECES)
CLS, SEP, MASK = (PIECES.index(piece) for piece in ("[CLS]", "[SEP]", "[MASK]"))


def encoded(text, length=10):
    ids, mask = TOKENIZER.encode([text], length)
    return ids[0], mask[0]


def drawn(text, count=3000, **options):
    """What many visits hide of a text: the rows."""
    hide = masking.make(TOKENIZER, **options)
    ids, mask = encoded(text)
    rng = np.random.default_rng(0)
    return [hide(ids, mask, rng) for _ in range(count)]


def test_a_share_of_the_words_is_hidden_and_one_at_least():
    rows = drawn("a red engine of fire", share=0.15)
    ids, _ = encoded("a red engine of fire")
    fates = collections.Counter()
    hidden = []
    for row in rows:
        kept = row["word_labels"] >= 0
        places = row["word_positions"][kept]
        hidden.append(len(places))
        assert len(places) and (np.diff(places) > 0).all() and ((places >= 1) & (places <= 5)).all()
        np.testing.assert_array_equal(row["word_labels"][kept], ids[places])
        assert (row["word_positions"][~kept] == 0).all()
        others = np.delete(np.arange(len(ids)), places)
        np.testing.assert_array_equal(row["text_ids"][others], ids[others])
        for place in places:
            now = row["text_ids"][place]
            fates["mask" if now == MASK else "same" if now == ids[place] else "other"] += 1
            assert now not in (0, CLS, SEP)
    # Five words: 0.15 each, and one of them where none is drawn.
    assert abs(np.mean(hidden) - (5 * 0.15 + 0.85**5)) < 0.03
    total = fates.total()
    assert abs(fates["mask"] / total - 0.8) < 0.02
    assert abs(fates["other"] / total - 0.1 * 8 / 9) < 0.02  # a ninth of the random ones are what stood there


def test_whole_words_are_hidden_together():
    ids, _ = encoded("fireworks of red firemanworks")
    assert [PIECES[i] for i in ids[:9]] == [
        "[CLS]", "fire", "##works", "of", "red", "fire", "##man", "##works", "[SEP]",
    ]  # fmt: skip
    words = [{1, 2}, {3}, {4}, {5, 6, 7}]
    seen = collections.Counter()
    for row in drawn("fireworks of red firemanworks", share=0.3, whole_words=True):
        places = set(row["word_positions"][row["word_labels"] >= 0].tolist())
        for word in words:
            assert word <= places or not word & places
        seen.update(str(word) for word in words if word <= places)
    assert min(seen.values()) > 600
    pieces = [len(row["word_positions"][row["word_labels"] >= 0]) for row in drawn("fireworks of red", share=0.3)]
    assert 1 in pieces, "by itself, a piece of a word may go alone"


def test_at_most_so_many_are_predicted():
    for row in drawn("a red engine of fire", share=0.9, predictions=2, count=300):
        assert (row["word_labels"] >= 0).sum() == 2 and (row["text_ids"] == MASK).sum() <= 2
    for row in drawn("firemanworks", share=0.9, predictions=2, whole_words=True, count=50):
        np.testing.assert_array_equal(row["word_positions"], [1, 2])


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.0}, {"predictions": 0}])
def test_masking_that_cannot_be(options):
    with pytest.raises(AlignError, match=r"expected 0 < share < 1 and predictions of at least 1"):
        masking.make(TOKENIZER, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sources.make(name="manifest", path=str(tiny_run.manifest(tmp_path_factory.mktemp("pairs"))))


def rows_of(source, folder, **options):
    return masked.make(
        source=source, folder=folder, vocab={"size": 200}, text_length=8, masking={"predictions": 4}, resize=32,
        crop=32, **{"negatives": {}, **options},
    )  # fmt: skip


def test_half_of_the_rows_are_no_pairs_and_say_so(source, tmp_path):
    """The pictures of this source are of 4 colours, by which four records share a text: those are no negatives."""
    examples = rows_of(source, tmp_path)
    tokenizer = examples.tokenizer
    texts = {text for record in map(source.about, range(len(source))) for text in record.texts}
    spelt = {tuple(tokenizer.encode([text], 8)[0][0]): text for text in texts}
    look = examples.shown.evaluate(source[5])["image"].astype(int)
    counts = collections.Counter()
    record = source[5]
    for seed in range(400):
        row = examples.train(record, np.random.default_rng(seed))
        ids = row["text_ids"].copy()
        there = row["word_labels"] >= 0
        ids[row["word_positions"][there]] = row["word_labels"][there]
        own_text = spelt[tuple(ids)] in record.texts
        own_image = np.abs(row["image"] - look).mean() < 10  # of noise, another differs by far more
        assert row["match"] == (own_text and own_image)
        assert own_text or own_image, "one of the two is the record's"
        counts[(own_image, own_text)] += 1
        assert row["hides_regions"]
    assert abs(counts[True, True] - 200) < 50
    assert abs(counts[True, False] - 100) < 40 and abs(counts[False, True] - 100) < 40
    again = examples.train(record, np.random.default_rng(7))
    for name, values in examples.train(record, np.random.default_rng(7)).items():
        np.testing.assert_array_equal(values, again[name])


def test_one_modality_at_a_time(source, tmp_path):
    examples = rows_of(source, tmp_path, one_modality=True, unmatched=0.0)
    kinds = collections.Counter()
    for seed in range(200):
        row = examples.train(source[0], np.random.default_rng(seed))
        words = (row["word_labels"] >= 0).any()
        assert words != row["hides_regions"] and row["match"]
        assert words or MASK not in row["text_ids"]
        kinds[bool(words)] += 1
    assert min(kinds.values()) > 70


def test_negatives_of_a_table(source, tmp_path):
    table = pa.table({"id": ["n5"], "texts": [["square 2", "a green square"]], "images": [["n2", "n9", "n7"]]})
    pq.write_table(table, tmp_path / "hard.parquet")
    hard = Negatives(source, path=str(tmp_path / "hard.parquet"))
    rng = np.random.default_rng(0)
    record = source[5]  # green, as record 9, so of these only square 2 and records 2 and 7 are negatives
    assert {hard.text(record, rng) for _ in range(50)} == {"square 2"}
    assert {hard.image(record, "a green square", rng).id for _ in range(50)} == {"n2", "n7"}
    assert len({hard.text(source[6], rng) for _ in range(100)}) > 10, "a record that is not in the table"
    half = Negatives(source, path=str(tmp_path / "hard.parquet"), hard=0.5)
    share = np.mean([half.text(record, rng) == "square 2" for _ in range(400)])
    assert 0.25 < share < 0.5, "half of the draws, of which every second is refused"


def test_tables_that_cannot_be_used(source, tmp_path):
    with pytest.raises(AlignError, match=r"found no .*nowhere.parquet"):
        Negatives(source, path=str(tmp_path / "nowhere.parquet"))
    pq.write_table(pa.table({"id": ["n5"]}), tmp_path / "other.parquet")
    with pytest.raises(AlignError, match=r"expected a parquet file with columns id, texts, images"):
        Negatives(source, path=str(tmp_path / "other.parquet"))
    pq.write_table(pa.table({"id": ["x"], "texts": [["a"]], "images": [["y"]]}), tmp_path / "foreign.parquet")
    with pytest.raises(AlignError, match=r"found 2 records that are not in it, such as .x., .*mine them"):
        Negatives(source, path=str(tmp_path / "foreign.parquet"))


def test_where_all_is_the_same_there_is_no_negative():
    class One(list):
        def about(self, index):
            return self[index]

    same = One([Record("a", "", ("x",), group="g"), Record("b", "", ("y",), group="g")])
    with pytest.raises(BadExample, match="no negative text found"):
        Negatives(same).text(same[0], np.random.default_rng(0))
    with pytest.raises(BadExample, match="no negative image found"):
        Negatives(same).image(same[0], "x", np.random.default_rng(0))
