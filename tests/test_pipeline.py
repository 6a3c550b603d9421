"""What a training run reads depends on (seed, position) alone; bad records are replaced, reported and counted."""

import itertools
import json

import numpy as np
import pytest

from align_jax.data.pairs import Pairs
from align_jax.data.pipeline import Stream
from align_jax.data.skips import SkipLog
from align_jax.data.source import BadExample, Record, Source
from align_jax.data.text import WordPiece
from align_jax.types import AlignError

WORDS = ("one", "two", "three")


class Numbers(Source):
    """Record i is a flat picture of value i with three texts; those in `bad` cannot be read, or have no text."""

    classes = ()

    def __init__(self, count=12, *, unreadable=(), empty=()):
        self._count, self._unreadable, self._empty = count, unreadable, empty

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        image = b"no picture" if index in self._unreadable else np.full((10, 10, 3), index, np.uint8)
        texts = ("", " ") if index in self._empty else WORDS
        return Record(id=f"n{index}", image=image, texts=texts, group=str(index))

    def texts(self):
        return iter(WORDS)


PAIRS = Pairs(WordPiece.train(" ".join(WORDS).split() * 2, 64), resize=8, crop=6, flip=True, text_length=4)


def batches(source=None, start=0, *, steps=6, rows=range(8), seed=1, transform=PAIRS.train, **options):
    """[(rows, skips)] of each step from `start` on; batches of 8 rows over the global batch."""
    stream = Stream(source or Numbers(), transform, 8, rows, steps, seed, **options)
    return list(stream.from_step(start))


def numbered(found):
    """Which record stands in each row, in order."""
    return [int(image[0, 0, 0]) for batch, _ in found for image in batch["image"]]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for (one, one_skips), (other, other_skips) in zip(found, expected, strict=True):
        assert one_skips == other_skips
        assert one.keys() == other.keys() == {"image", "text_ids", "text_mask", "ids"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("start", [0, 1, 5, 6])
def test_resuming_at_a_step_reads_what_would_have_come(start):
    source = Numbers(unreadable=(3, 7))
    assert_equal(batches(source, start), batches(source)[start:])


@pytest.mark.parametrize(
    "options", [{"threads": 1, "prefetch": 1}, {"threads": 4, "prefetch": 1}, {"threads": 3}], ids=str
)
def test_readers_do_not_change_what_is_read(options):
    source = Numbers(unreadable=(3, 7), empty=(1,))
    assert_equal(batches(source, **options), batches(source))


def test_four_hosts_read_the_global_batch_of_one():
    source = Numbers(unreadable=(3, 7))
    hosts = [batches(source, rows=range(2 * host, 2 * host + 2)) for host in range(4)]
    joined = [
        (
            {name: np.concatenate([batch[name] for batch, _ in parts]) for name in parts[0][0]},
            [skip for _, skips in parts for skip in skips],
        )
        for parts in zip(*hosts, strict=True)
    ]
    assert_equal(joined, batches(source))


def test_each_epoch_visits_each_record_once_in_a_new_order():
    read = numbered(batches(steps=6))  # 48 rows, 4 epochs of 12
    epochs = [read[start : start + 12] for start in range(0, 48, 12)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 4
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_length_of_the_run_does_not_change_the_order():
    assert_equal(batches(steps=20)[:6], batches(steps=6))


def test_the_seed_changes_the_order():
    assert numbered(batches(seed=1)) != numbered(batches(seed=2))


def test_a_visit_draws_one_text_and_one_window():
    found = batches(steps=60)
    texts = [tuple(ids) for batch, _ in found for ids in batch["text_ids"]]
    drawn: dict[int, set] = {}
    for number, text in zip(numbered(found), texts, strict=True):
        drawn.setdefault(number, set()).add(text)
    assert [len(drawn[number]) for number in range(12)] == [3] * 12  # each text in its turn


def test_ids_are_of_the_group_and_of_the_text_that_was_drawn():
    def row(group, text):
        record = Record(id="x", image=np.zeros((10, 10, 3), np.uint8), texts=(text,), group=group)
        return PAIRS.train(record, np.random.default_rng(0))["ids"].tolist()

    group, text = row("a", "one two")
    assert row("a", " One  TWO") == [group, text], "spaces and capitals make no other text"
    assert row("b", "one two")[1] == text and row("b", "one two")[0] != group
    assert row("a", "two one")[0] == group and row("a", "two one")[1] != text


def test_a_bad_record_is_replaced_by_the_same_draw_and_reported():
    source = Numbers(unreadable=(3, 7), empty=(1,))
    found, good = batches(source), batches()
    skips = [skip for _, step in found for skip in step]
    expected = [(position, number) for position, number in enumerate(numbered(good)) if number in (1, 3, 7)]
    reasons = {1: "text empty", 3: "image unreadable", 7: "image unreadable"}
    first = {skip["position"]: (skip["id"], skip["reason"]) for skip in reversed(skips)}  # a draw may be bad again
    assert first == {position: (f"n{number}", reasons[number]) for position, number in expected}
    assert not {1, 3, 7} & set(numbered(found))
    for position, (one, other) in enumerate(zip(numbered(found), numbered(good), strict=True)):
        assert one == other or position in first  # the neighbours of a bad record stay as they were


def test_a_reader_of_records_may_refuse_one_too():
    class Missing(Numbers):
        def __getitem__(self, index):
            if index == 5:
                raise BadExample("row damaged")
            return super().__getitem__(index)

    skips = [skip for _, step in batches(Missing()) for skip in step]
    assert {(skip["id"], skip["reason"]) for skip in skips} == {("record 5", "row damaged")}


def test_a_text_without_a_word_counts_as_empty():
    record = Record(id="x", image=np.zeros((10, 10, 3), np.uint8), texts=("\u200b",), group="x")
    with pytest.raises(BadExample, match="text empty"):
        PAIRS.train(record, np.random.default_rng(0))


def test_a_source_without_a_usable_record_stops_the_run():
    with pytest.raises(AlignError, match=r"100 records in a row cannot be used \(image unreadable\)"):
        batches(Numbers(unreadable=range(12)))


def test_a_bug_in_a_reader_is_no_bad_record():
    def broken(record, rng):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        batches(transform=broken)


def test_what_is_skipped_is_written_down(tmp_path):
    log = SkipLog(tmp_path / "run" / "skipped.jsonl", max_share=0.5)
    log.add(0, 8, [])
    assert not (tmp_path / "run").exists()
    source = Numbers(unreadable=(3,), empty=(1,))
    found = batches(source)
    for step, (_, skips) in enumerate(found):
        log.add(step, 8, skips)
    lines = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, **skip} for step, (_, skips) in enumerate(found) for skip in skips]
    assert {line["id"] for line in lines} == {"n1", "n3"} and all(
        line["position"] // 8 == line["step"] for line in lines
    )
    counts = {reason: sum(line["reason"] == reason for line in lines) for reason in ("image unreadable", "text empty")}
    assert dict(log.reasons) == counts
    assert all(f"{count} {reason}" in log.summary() for reason, count in counts.items())


def bad(count):
    return [{"position": 0, "id": "x", "reason": "image unreadable"}] * count


@pytest.mark.parametrize(
    ("share", "each", "fails_at"), [(0.01, 1, 1), (0.01, 0.06, 2), (0.1, 0.2, 6), (0.0, 0.001, 1)], ids=str
)
def test_too_large_a_share_fails_in_one_line(tmp_path, share, each, fails_at):
    """Batches of 100 rows, with 100 * each bad ones: judged over at least a thousand rows."""
    log = SkipLog(tmp_path / "skipped.jsonl", max_share=share)
    with pytest.raises(AlignError, match="unusable") as error:
        for step in itertools.count(1):
            assert step <= fails_at
            log.add(step, 100, bad(max(1, round(100 * each))))
    assert step == fails_at
    assert (
        "\n" not in str(error.value) and "max_bad_share" in str(error.value) and "image unreadable" in str(error.value)
    )
    assert (tmp_path / "skipped.jsonl").exists()  # what stopped the run is written down first


def test_a_small_share_passes(tmp_path):
    log = SkipLog(tmp_path / "skipped.jsonl", max_share=0.02)
    for step in range(100):
        log.add(step, 100, bad(1))


def test_skips_are_counted_on_after_a_resume(tmp_path):
    """What a killed run wrote beyond its checkpoint comes again; the share of bad records is that of the whole run."""
    path = tmp_path / "skipped.jsonl"
    log = SkipLog(path, max_share=0.02)
    for step in range(6):
        log.add(step, 100, bad(2))
    with path.open("a") as file:
        file.write('{"step": 6, "posi')  # killed while it was writing
    resumed = SkipLog(path, max_share=0.02)
    resumed.resume(4, 100)
    assert resumed.reasons.total() == 8 and path.read_text().count("\n") == 8
    for step in range(4, 10):
        resumed.add(step, 100, bad(2))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [s for s in range(10) for _ in "ab"]
    with pytest.raises(AlignError, match="found 21 beside 1000 good ones"):
        resumed.add(9, 0, bad(1))
