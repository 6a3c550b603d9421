"""Sidecars decide which records take part, before the shuffle, exactly, with every loss counted."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import manifest

from align_jax.data import order as orders
from align_jax.data import source as sources
from align_jax.data.filter import Filtered, drawn, filtered
from align_jax.data.source import BadExample, File, Record, Source
from align_jax.types import AlignError


class Named(Source):
    """Records of given ids, in chunks of three; the one named "bad" cannot be read."""

    def __init__(self, names, sizes=None):
        self.names, self.problems = list(names), {"no image": 2}
        if sizes:
            self.blocks = np.cumsum([0, *sizes[:-1]])

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if self.names[index] == "bad":
            raise BadExample("damaged")
        return Record(self.names[index], b"", (f"text of {self.names[index]}",), "")

    def ids(self):
        return pa.chunked_array([self.names[i : i + 3] for i in range(0, len(self), 3)], pa.string())

    def texts(self):
        return (f"text of {name}" for name in self.names)

    def files(self):
        return [File("named", len(self), 0, "")]


def write(path, rows):
    """A sidecar by what wrote such files before: pyarrow, csv and json; text as it is."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", "utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        path.write_text("\n".join(row["id"] for row in rows) + "\n", "utf-8")
    return str(path)


def kept(source, *sidecars):
    """(ids that are left, problems beyond the source's own)."""
    found = filtered(source, sidecars, where="source 'named'")
    assert found.ids().to_pylist() == [found[i].id for i in range(len(found))]
    return found.ids().to_pylist(), {k: v for k, v in found.problems.items() if k != "no image"}


NAMES = ["007", "7", "NA", "caf\u00e9", "a,b", "shard-0/x 1", "null"]


@pytest.mark.parametrize("suffix", [".txt", ".parquet", ".csv", ".jsonl"])
def test_a_keep_list_of_any_format(tmp_path, suffix):
    """Ids are texts: zeros in front stay, and NA is no missing value."""
    listed = ["NA", "elsewhere", "null", "caf\u00e9", "007", "shard-0/x 1"]
    path = write(tmp_path / f"keep{suffix}", [{"id": name} for name in listed])
    names, problems = kept(Named(NAMES), {"path": path})
    assert names == ["007", "NA", "caf\u00e9", "shard-0/x 1", "null"]  # in the order of the source
    assert problems == {f"filter {path}: id unknown to the source": 1, f"filter {path}: not listed": 2}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({"min": 0.5}, "bc"), ({"max": 0.5}, "ab"), ({"min": 0.2, "max": 0.6}, "b"), ({"min": -1, "max": 2}, "abc")],
    ids=str,
)
def test_scores_within_bounds(tmp_path, suffix, bounds, expected):
    scores = {"a": 0.1, "b": 0.5, "c": 0.9, "d": None, "z": 0.5}
    rows = [{"id": name, "caption": "x", "score": score} for name, score in scores.items()]
    path = write(tmp_path / f"scores{suffix}", rows)
    names, problems = kept(Named("abcde"), {"path": path, "column": "score", **bounds})
    assert names == list(expected)
    assert problems == {
        f"filter {path}: id unknown to the source": 1,
        f"filter {path}: not listed": 1,
        f"filter {path}: refused by score": 4 - len(expected),
    }


def test_whole_numbers_and_nan_are_scores_and_numbers_are_ids(tmp_path):
    table = pa.table({"id": [3, 4, 5], "width": [200, 300, 400], "score": [1.0, float("nan"), 1.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert kept(Named("345"), {"path": path, "column": "width", "min": 300})[0] == ["4", "5"]
    assert kept(Named("345"), {"path": path, "column": "score", "min": -1e9})[0] == ["3", "5"]


def test_all_sidecars_must_allow_and_the_first_that_refuses_counts(tmp_path):
    one = write(tmp_path / "one.txt", [{"id": name} for name in "abc"])
    two = write(tmp_path / "two.csv", [{"id": name, "x": number} for number, name in enumerate("bcd")])
    names, problems = kept(Named("abcde"), {"path": one}, {"path": two, "column": "x", "min": 1})
    assert names == ["c"]
    assert problems == {
        f"filter {one}: not listed": 2, f"filter {two}: not listed": 1, f"filter {two}: refused by x": 1
    }  # fmt: skip
    assert sum(problems.values()) + len(names) == 5


@settings(deadline=None, max_examples=40)
@given(names=st.lists(st.text(max_size=4), unique=True, min_size=1), data=st.data())
def test_the_index_is_exact(tmp_path_factory, names, data):
    """Any ids that Unicode can write, but surrogates, against Python's own sets."""
    chosen = data.draw(st.sets(st.sampled_from(names), min_size=1))
    others = data.draw(st.sets(st.text(max_size=4)))
    path = str(tmp_path_factory.mktemp("sidecar") / "keep.parquet")
    pq.write_table(pa.table({"id": pa.array(sorted(chosen | others), pa.string())}), path)
    found, problems = kept(Named(names), {"path": path})
    assert found == [name for name in names if name in chosen | others]
    counts = {"id unknown to the source": len(others - set(names)), "not listed": len(set(names) - chosen - others)}
    assert problems == {f"filter {path}: {reason}": count for reason, count in counts.items() if count}


def test_what_a_filtered_source_gives(tmp_path):
    path = write(tmp_path / "keep.txt", [{"id": name} for name in ("a", "d", "bad", "h")])
    source = Named(["a", "b", "c", "d", "e", "bad", "g", "h"], sizes=[2, 1, 2, 2, 1])
    found = filtered(source, [{"path": path}], where="source")
    assert len(found) == 4 and found.files()[:-1] == source.files() and found.problems["no image"] == 2
    sidecar = found.files()[-1]
    assert (sidecar.name, sidecar.records, sidecar.bytes) == (path, 4, os.path.getsize(path))
    assert len(sidecar.digest) == 16
    assert found.blocks.tolist() == [0, 1, 2, 3]  # of the five blocks, the second is empty
    assert list(found.texts()) == ["text of a", "text of d", "text of h"]
    with pytest.raises(BadExample, match="damaged"):
        found[2]
    assert filtered(Named("abcdefgh", sizes=[1, 7]), [{"path": path}], where="").blocks.tolist() == [0, 1]


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8), data=st.data())
def test_blocks_of_what_is_left(sizes, data):
    count = sum(sizes)
    left = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    found = Filtered(Named(map(str, range(count)), sizes), left)
    block_of = np.repeat(range(len(sizes)), sizes)[left]
    assert found.blocks.tolist() == [0, *(np.flatnonzero(np.diff(block_of)) + 1)]
    order = orders.make(found, seed=0, shuffle="auto", window=2)
    assert sorted(order.record(position) for position in range(len(left))) == list(range(len(left)))


@pytest.mark.parametrize(
    ("sidecar", "rows", "match"),
    [
        ({"path": "no.txt"}, None, r"filter .*no\.txt: expected .*no\.txt, found no such file; check"),
        ({"path": "a.json"}, "ab", r"ends in one of \['\.csv', '\.jsonl', '\.parquet', '\.txt'\], found '\.json'"),
        ({"path": "a.txt", "column": "x", "min": 0}, "ab", r"one of \['\.csv', .* '\.parquet'\], found '\.txt'"),
        ({"path": "a.csv", "column": "x"}, "ab", "expected a column with min, max or both, or with eq"),
        ({"path": "a.csv", "min": 1}, "ab", "expected a column with min, max or both, or with eq"),
        ({"path": "a.csv", "column": "x", "min": "1"}, "ab", "min: expected a number or None, found '1'"),
        ({"path": "a.csv", "column": "x", "min": 1}, "ab", r"expected id .* and x \(a number\).*'x' in include"),
        ({"path": "a.jsonl", "column": "x", "min": 1}, "ab", r"expected id .* and x .* in each row, found no x"),
        ({"path": "a.parquet", "column": "x", "min": 1}, "ab", r"expected id .* and x .* in each row, found no x"),
        ({"path": "a.parquet", "colum": "x"}, "ab", r"filter\[0\]: unknown key 'colum'; did you mean 'column'"),
        ({"column": "x"}, "ab", r"filter\[0\]: missing key 'path'"),
        ({"path": "a.txt"}, "bbcbd", r"filter .*a\.txt: expected each id once, to filter by ids, found 'b' 3 times"),
        ({"path": "a.txt"}, ["t", "b", "t"], r"a\.txt: expected each id once.*found 't' 2 times"),  # t is unknown
        ({"path": "a.txt"}, "yz", r"expected a record that its filter allows, found none of 4 \(2 .*unknown.*4 .*not"),
        ({"path": "a.parquet"}, ["a", None], "expected an id in each row, found 1 rows without one"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, sidecar, rows, match):
    if "path" in sidecar:
        sidecar = sidecar | {"path": str(tmp_path / sidecar["path"])}
    if rows:
        write(tmp_path / sidecar.get("path", "a.csv"), [{"id": name} for name in rows])
    with pytest.raises(AlignError, match=match) as error:
        filtered(Named("abcd"), [sidecar], where="source 'named'")
    assert "\n" not in str(error.value)


def test_a_single_sidecar_is_no_list():
    with pytest.raises(
        AlignError, match=r"source: expected filter as a list of \{'path': \.\.\.\}, found 'path' in it"
    ):
        filtered(Named("abcd"), {"path": "keep.txt"}, where="source")


def test_damaged_sidecars_are_named(tmp_path):
    for name, contents in (("a.parquet", b"PAR1"), ("a.jsonl", b'{"id": '), ("a.csv", b"id\n\xff\n"), ("a.txt", b"")):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(AlignError, match=rf"filter .*{name}: expected id .* in each row, found: ") as error:
            filtered(Named("abcd"), [{"path": str(tmp_path / name)}], where="source")
        assert "\n" not in str(error.value)


def test_an_id_that_is_twice_in_the_source_cannot_be_filtered(tmp_path):
    path = write(tmp_path / "keep.txt", [{"id": "a"}])
    with pytest.raises(AlignError, match=r"source 'named': expected each id once, to filter by ids, found 'b' 2 times"):
        filtered(Named("abcb"), [{"path": path}], where="source 'named'")


def test_every_source_takes_a_filter(tmp_path):
    path = write(tmp_path / "keep.txt", [{"id": f"n{number}"} for number in (3, 5, 6)])
    source = sources.make(name="manifest", path=str(manifest(tmp_path, 8)), filter=({"path": path},))
    assert [source[i].id for i in range(len(source))] == ["n3", "n5", "n6"] and source.classes
    assert source.problems == {f"filter {path}: not listed": 5}
    with pytest.raises(AlignError, match=r"source 'manifest': filter\[0\]: unknown key 'pth'; did you mean 'path'"):
        sources.make(name="manifest", path=str(tmp_path / "pairs.jsonl"), filter=({"pth": path},))


def test_a_share_is_drawn_by_id():
    names = [f"{i}.png" for i in range(2000)]

    def ids(share, seed=0):
        return set(drawn(Named(names), share, seed, where="source").ids().to_pylist())

    half, tenth = ids(0.5), ids(0.1)
    assert tenth < half and abs(len(half) - 1000) < 70 and abs(len(tenth) - 200) < 45
    assert abs(len(half & ids(0.5, 1)) - 500) < 60, "another seed draws others"
    digests = {drawn(Named(names), share, 0, where="source").files()[-1].digest for share in (0.5, 0.1)}
    assert len(digests) == 2, "a run is not continued on another share"
    with pytest.raises(AlignError, match=r"expected 0 < share <= 1, found 1\.5"):
        ids(1.5)
