"""Which record stands at which position: a function of (seed, position) alone, each epoch a permutation."""

import concurrent.futures
import itertools
import resource
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.data import order as orders
from align_jax.data import pipeline
from align_jax.data.pipeline import Stream
from align_jax.data.source import BadExample, Record, Source
from align_jax.types import AlignError


class Numbered(Source):
    """Record i holds nothing but its number. `sizes` of blocks; those in `bad` cannot be used."""

    def __init__(self, count, sizes=None, *, bad=(), parts=()):
        self.count, self.bad, self.parts = count, bad, parts
        if sizes is not None:
            self.blocks = np.cumsum([0, *sizes[:-1]])

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise BadExample("damaged")
        return Record(str(index), b"", (), str(index))

    def ids(self):
        return pa.chunked_array([[str(i) for i in range(self.count)]], pa.string())


def number(record, rng):
    return {"number": np.int64(int(record.id)), "draw": rng.integers(2**60)}


def order_of(source, *, seed=0, shuffle="auto", window=16):
    return orders.make(source, seed=seed, shuffle=shuffle, window=window)


def records(order, positions):
    return [order.record(position) for position in positions]


# The first two epochs of seed 1.
EARLIER = [10, 5, 7, 3, 8, 4, 9, 2, 0, 11, 6, 1,
           11, 8, 9, 3, 5, 0, 1, 10, 7, 4, 6, 2]  # fmt: skip


def test_the_global_order_is_that_of_earlier_runs():
    assert records(order_of(Numbered(12), seed=1), range(24)) == EARLIER


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(sizes=sizes, window=st.integers(1, 15), seed=st.integers(0, 2**32), epoch=st.sampled_from([0, 1, 10**6]))
def test_each_epoch_of_blocks_is_a_permutation_that_stays_in_its_window(sizes, window, seed, epoch):
    count = sum(sizes)
    found = records(
        order_of(Numbered(count, sizes), seed=seed, window=window), range(epoch * count, (epoch + 1) * count)
    )
    assert sorted(found) == list(range(count))
    block_of = np.repeat(range(len(sizes)), sizes)
    met, left = set(), found
    while left:  # window by window: what is met is met whole
        blocks = set()
        for length in itertools.count(1):
            blocks.add(int(block_of[left[length - 1]]))
            if length == sum(sizes[block] for block in blocks) and len(blocks) in (window, len(sizes) - len(met)):
                break
        assert not blocks & met
        met |= blocks
        left = left[length:]


@pytest.mark.parametrize("source", [Numbered(1000), Numbered(1000, [10] * 100)], ids=["global", "blocks"])
def test_orders_differ_by_epoch_and_by_seed(source):
    first = records(order_of(source, window=4), range(2000))
    other = records(order_of(source, seed=1, window=4), range(2000))
    # Of 1000 records, two independent orders have about one in the same place.
    assert sum(map(int.__eq__, first[:1000], first[1000:])) < 15 and sum(map(int.__eq__, first, other)) < 25
    assert first == records(order_of(source, window=4), range(2000))


def test_records_of_a_window_are_mixed_evenly():
    """Where a record of a block stands in its window, over many epochs: anywhere alike."""
    order = order_of(Numbered(40, [10] * 4), window=4)
    places = [position % 40 for position in range(40 * 200) if order.record(position) == 7]
    assert abs(np.mean(places) - 19.5) < 2 and min(places) < 3 and max(places) > 36


def test_the_choice_of_order():
    plain, stored = Numbered(8), Numbered(8, [4, 4])
    assert isinstance(order_of(plain), orders.Global) and isinstance(order_of(stored), orders.Blocks)
    assert isinstance(order_of(stored, shuffle="global"), orders.Global)
    assert isinstance(order_of(stored, shuffle="blocks"), orders.Blocks)
    with pytest.raises(AlignError, match=r"shuffle: expected a source that is stored in blocks.*'auto' or 'global'"):
        order_of(plain, shuffle="blocks")
    with pytest.raises(AlignError, match=r"shuffle: expected 'auto', 'global' or 'blocks', found 'none'"):
        order_of(plain, shuffle="none")
    with pytest.raises(AlignError, match=r"shuffle_window: expected at least 1 block, found 0"):
        order_of(stored, window=0)


@pytest.mark.parametrize("blocks", [None, 256], ids=["global", "blocks"])
def test_ten_million_records_at_any_position(blocks):
    """A list of the records alone would take 80 MB and seconds."""
    count = 10_000_000
    source = Numbered(count)
    if blocks:
        source.blocks = np.arange(0, count, blocks)
    start, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    order = order_of(source)
    found = records(order, range(10**9, 10**9 + 2000))
    assert len(set(found)) == 2000 and max(found) < count
    if blocks:
        assert len({record // blocks for record in found}) <= 16
    assert time.perf_counter() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 40_000  # kB


def test_threads_share_an_order():
    order, alone = (order_of(Numbered(500, [5] * 100), window=3) for _ in range(2))
    positions = np.random.default_rng(0).integers(0, 5000, 4000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(order.record, positions)) == records(alone, positions)


weights = st.lists(st.one_of(st.integers(1, 9), st.floats(0.01, 50)), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(weights=weights, start=st.integers(0, 10**9))
def test_parts_take_turns_in_exact_proportion(weights, start):
    counts = [100_000 + number for number in range(len(weights))]
    source = Numbered(sum(counts), parts=[(Numbered(n), w) for n, w in zip(counts, weights, strict=True)])
    order = order_of(source)
    firsts = np.cumsum([0, *counts])
    part = np.searchsorted(firsts, records(order, range(start, start + 300)), side="right") - 1
    taken = np.cumsum(part[:, None] == np.arange(len(weights)), axis=0)
    share = np.arange(1, 301)[:, None] * np.array(weights) / sum(weights)
    assert (abs(taken - share) < 2 * (1 + np.log(len(weights)))).all()  # the bound holds at both ends of the stretch


def test_a_large_part_is_not_read_ahead_of_its_share():
    """Seven small parts are due at about the same position: what each lacks until then must not go to the large one."""
    order = order_of(Numbered(800_000, parts=[(Numbered(100_000), weight) for weight in [1] * 7 + [1000]]))
    part = np.array(records(order, range(2100))) // 100_000
    ahead = np.cumsum(part == 7) - np.arange(1, 2101) * 1000 / 1007
    assert abs(ahead).max() < 1 + np.log(8)


def test_each_part_goes_through_epochs_of_its_own():
    parts = [(Numbered(6), 1.0), (Numbered(10, [2] * 5), 3.0)]
    order = order_of(Numbered(16, parts=parts), window=2)
    found = records(order, range(400))
    for low, high in ((0, 6), (6, 16)):
        own = [record for record in found if low <= record < high]
        for epoch in range(len(own) // (high - low)):
            assert sorted(own[epoch * (high - low) : (epoch + 1) * (high - low)]) == list(range(low, high))


def test_equal_parts_have_different_orders():
    order = order_of(Numbered(200, parts=[(Numbered(100), 1), (Numbered(100), 1)]))
    found = records(order, range(200))
    assert [record for record in found if record < 100] != [record - 100 for record in found if record >= 100]


SOURCES = {
    "global": Numbered(50, bad=(3, 4)),
    "blocks": Numbered(50, [5] * 10, bad=(3, 4)),
    "mixture": Numbered(50, bad=(3, 44), parts=[(Numbered(20, [4] * 5), 1), (Numbered(30), 2.5)]),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_hosts_threads_and_resuming_do_not_change_the_rows(source):
    def rows(start=0, hosts=1, threads=2):
        each = 12 // hosts
        streams = [
            Stream(source, number, 12, range(each * host, each * (host + 1)), 30, 5, window=3, threads=threads)
            for host in range(hosts)
        ]
        steps = zip(*(stream.from_step(start) for stream in streams), strict=True)
        return [
            [(int(n), int(d)) for batch, _ in step for n, d in zip(batch["number"], batch["draw"], strict=True)]
            for step in steps
        ]

    whole = rows()
    assert len(whole) == 30 and len({n for step in whole for n, _ in step}) == 48
    for hosts, threads in ((1, 1), (1, 5), (4, 1), (4, 2), (4, 5)):
        assert rows(hosts=hosts, threads=threads) == whole
    for start in (1, 17, 29):
        assert rows(start, hosts=3) == whole[start:]


def test_a_bad_record_of_a_mixture_is_replaced_from_its_own_part():
    source = Numbered(8, bad=(0, 2, 6), parts=[(Numbered(4), 1), (Numbered(4), 1)])
    stream = Stream(source, number, 8, range(8), 25, 0)
    found = [int(n) for batch, _ in stream.from_step(0) for n in batch["number"]]
    assert {0, 2, 6}.isdisjoint(found)
    assert sum(n < 4 for n in found) == 100


def test_ids_name_the_records_that_were_used():
    source = Numbered(50, [5] * 10, bad=(3, 4, 20))
    stream = Stream(source, number, 12, range(4, 8), 40, 3, window=2)
    before = stream.ids(30)
    found = list(stream.from_step(20))
    assert any(skips for _, skips in found)
    for step, (batch, _) in enumerate(found, 20):
        assert stream.ids(step) == [str(n) for n in batch["number"]]
    replaced = {skip["id"].removeprefix("record ") for skip in found[10][1]}
    assert [one for one, other in zip(before, stream.ids(30), strict=True) if one != other] == sorted(
        replaced, key=before.index
    )


def test_a_passing_error_of_the_storage_is_waited_out(monkeypatch):
    waited = []
    monkeypatch.setattr(pipeline.time, "sleep", waited.append)
    failing = itertools.cycle([True, True, False])

    def flaky(record, rng):
        drawn = number(record, rng)
        if next(failing):
            raise ConnectionError("reset by peer")
        return drawn

    def rows(transform):
        stream = Stream(Numbered(9), transform, 4, range(4), 3, 0, threads=1)
        return [batch["draw"].tolist() for batch, _ in stream.from_step(0)]

    assert rows(flaky) == rows(number)  # drawn anew, not drawn on
    assert waited == [*pipeline.WAITS[:2]] * 12


def test_a_lasting_error_of_the_storage_stops_the_run_and_names_the_record(monkeypatch):
    waited = []
    monkeypatch.setattr(pipeline.time, "sleep", waited.append)

    class Broken(Numbered):
        def __getitem__(self, index):
            raise OSError(5, "Input/output\nerror")

    with pytest.raises(
        AlignError, match=r"^data: could not read record \d+ in 4 tries over 31 s .*error.*run"
    ) as error:
        next(iter(Stream(Broken(4), number, 2, range(2), 3, 0, threads=1).from_step(0)))
    assert "\n" not in str(error.value) and waited[:3] == sorted(waited[:3]) == list(pipeline.WAITS)
