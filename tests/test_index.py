"""An index appears whole or not at all, goes on after a kill, and notices every change of its shards."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pair_files import SHARD, pairs, write_parquet, write_tar

from align_jax.data import indexing, rows
from align_jax.data import source as sources
from align_jax.data.index import open_index
from align_jax.data.rows import Rows
from align_jax.data.storage import Stored
from align_jax.types import AlignError

PAIRS = pairs(24)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def options(tmp_path):
    """Three shards of tar, and where their index goes."""
    return write_tar(tmp_path / "data", PAIRS) | {"index": str(tmp_path / "index")}


def test_an_index_is_read_again(options, monkeypatch):
    source = sources.make(**options)
    monkeypatch.setattr("align_jax.data.index.build", lambda *args, **kwargs: pytest.fail("indexed twice"))
    again = sources.make(**options)
    assert again.ids() == source.ids() and again[5] == source[5] and again.files() == source.files()
    assert sorted(os.listdir(options["index"])) == ["index.arrow", "lock", "problems.jsonl"]


def test_an_index_goes_to_the_cache_folder(options, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sources.make(name="tar", path=options["path"])
    sources.make(name="tar", path=options["path"], texts=("txt", "json.caption"))
    assert len(list((tmp_path / "cache" / "align_jax" / "index").glob("*/index.arrow"))) == 2, "by options too"


def test_an_index_of_other_options_is_refused(options):
    sources.make(**options)
    with pytest.raises(AlignError, match=r"expected the index of .*'json.caption'.*, found that of .*'txt'.* anew"):
        sources.make(**options, texts="json.caption")


def test_a_damaged_index_is_named(options):
    sources.make(**options)
    path = Path(options["index"]) / "index.arrow"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AlignError, match=r"index\.arrow: expected an index of shards; delete .*/index to index anew"):
        sources.make(**options)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda folder: (folder / "001.tar").unlink(), "1 missing, first .*001.tar"),
        (lambda folder: (folder / "001.tar").touch(), "1 changed, first .*001.tar"),
        (
            lambda folder: [path.write_bytes(path.read_bytes() + b"x") for path in folder.iterdir()],
            "3 changed, first .*000.tar",
        ),
        (lambda folder: (folder / "003.tar").write_bytes(b""), "1 new, first .*003.tar"),
    ],
    ids=["missing", "touched", "longer", "new"],
)
def test_another_set_of_shards_is_one_clear_line(options, tmp_path, change, found):
    options["path"] = str(tmp_path / "data" / "*.tar")
    sources.make(**options)
    change(tmp_path / "data")
    message = f"expected the 3 shards that were indexed, found {found}; put back .* or delete .*/index to index anew"
    with pytest.raises(AlignError, match=message) as error:
        sources.make(**options)
    assert "\n" not in str(error.value)


def test_a_shard_that_changes_while_it_is_read(options, tmp_path):
    source = sources.make(**options)
    (tmp_path / "data" / "001.tar").write_bytes(b"another")
    with pytest.raises(AlignError, match=r"001\.tar: expected .* found it changed"):
        source[SHARD]
    assert source[0].texts == PAIRS[0].texts


def test_a_missing_shard_of_a_pattern_is_named(options, tmp_path):
    (tmp_path / "data" / "001.tar").unlink()
    with pytest.raises(AlignError, match=r"expected .*001\.tar, found no such file"):
        sources.make(**options)
    with pytest.raises(AlignError, match=r"expected .*none\*\.tar, found no such file"):
        sources.make(name="tar", path=str(tmp_path / "none*.tar"))


def test_shards_of_one_name_are_told_apart_by_their_folders(tmp_path):
    (tmp_path / "all").mkdir()
    for name in ("a", "b"):
        write_tar(tmp_path / "all" / name, PAIRS[:2])
    source = sources.make(name="tar", path=f"{tmp_path}/all/{{a,b}}/*.tar", index=str(tmp_path / "index"))
    assert source.ids().to_pylist() == ["a/000/k000", "a/000/k001", "b/000/k000", "b/000/k001"]


def test_shards_of_one_beginning(tmp_path):
    """As tfds and Beam name them."""
    write_tar(tmp_path / "data", PAIRS)
    for number in range(3):
        (tmp_path / "data" / f"00{number}.tar").rename(tmp_path / "data" / f"x.tar-0000{number}-of-00003")
    source = sources.make(name="tar", path=f"{tmp_path}/data/x.tar-*", index=str(tmp_path / "index"))
    assert source[SHARD].id == "x.tar-00001-of-00003/k008"


def test_a_folder_that_cannot_be_written_is_named(options, tmp_path):
    (tmp_path / "index").write_text("a file")
    with pytest.raises(AlignError, match=r"index: expected to write an index of 3 shards there, found .*File exists"):
        sources.make(**options)


BUILD = """
import sys, time
from align_jax.data import source, tar
real = tar.scan_tar
def slow(*args, **options):
    real(*args, **options)
    print("shard", flush=True)
    time.sleep(float(sys.argv[3]))
tar.scan_tar = slow
from align_jax.data import indexing
indexing.THREADS = 1
found = source.make(name="tar", path=sys.argv[1], index=sys.argv[2])
print(len(found), flush=True)
"""


def build(options, wait):
    command = [sys.executable, "-c", BUILD, options["path"], options["index"], str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_killed_build_goes_on(options):
    with build(options, 0.3) as process:
        for _ in range(2):
            assert process.stdout.readline() == "shard\n"
        process.send_signal(signal.SIGKILL)
    assert not (Path(options["index"]) / "index.arrow").exists()
    parts = {path: path.stat().st_mtime_ns for path in (Path(options["index"]) / "parts").glob("*.arrow")}
    assert len(parts) == 1
    with build(options, 0) as process:
        assert process.stdout.read() == f"shard\nshard\n{len(PAIRS)}\n"
    source = sources.make(**options)
    assert [source[i].texts for i in range(len(PAIRS))] == [pair.texts for pair in PAIRS]


def test_two_builds_at_once(options):
    with build(options, 0.1) as one, build(options, 0.1) as other:
        found = [process.stdout.read() for process in (one, other)]
    assert sorted(found) == [f"{len(PAIRS)}\n", f"shard\nshard\nshard\n{len(PAIRS)}\n"], "one waits, and reads nothing"


def test_what_fails_in_the_middle_leaves_no_index(options, monkeypatch):
    real, calls = indexing._write_part, []

    def failing(path, file, rows):
        calls.append(file.path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(path, file, rows)

    monkeypatch.setattr(indexing, "THREADS", 1)
    monkeypatch.setattr(indexing, "_write_part", failing)
    with pytest.raises(AlignError, match=r"expected to write an index of 3 shards there, found .*No space left"):
        sources.make(**options)
    monkeypatch.setattr(indexing, "_write_part", real)
    assert len(sources.make(**options)) == len(PAIRS)


def test_problems_are_counted_and_listed(tmp_path):
    options = write_parquet(tmp_path / "data", [PAIRS[0], PAIRS[0], PAIRS[1]._replace(texts=("",)), PAIRS[2]])
    source = sources.make(**options, index=str(tmp_path / "index"))
    assert len(source) == 2 and dict(source.problems) == {"key repeated": 1, "text empty": 1}
    listed = [json.loads(line) for line in (tmp_path / "index" / "problems.jsonl").read_text().splitlines()]
    assert listed == [{"shard": str(tmp_path / "data" / "000.parquet"), "key": key, "reason": reason}
                      for key, reason in (("k000", "key repeated"), ("k001", "text empty"))]  # fmt: skip


@pytest.mark.parametrize("counts", [(5, 0, 1, 9, 30, 2), (0, 0), (8, 8)], ids=str)
def test_rows_of_any_number_of_shards(tmp_path, monkeypatch, counts):
    """Batches of the index are of one size, whatever the shards hold."""
    monkeypatch.setattr(rows, "BATCH", 4)
    monkeypatch.setattr(indexing, "BATCH", 4)

    def scan(file: Stored, rows: Rows) -> None:
        for i in range(file.size):
            rows.add(f"{i}", [f"text {i}"], label=f"{file.path}", place=i)

    files = [Stored(f"s{number}", count, "") for number, count in enumerate(counts)]
    prefixes = [file.path for file in files]
    index = open_index(tmp_path, files, scan, places=("place",), prefixes=prefixes, request={})
    expected = [(number, i) for number, count in enumerate(counts) for i in range(count)]
    found = [index.rows.row(i) for i in range(len(index.rows))]
    assert [(row["shard"], row["place"]) for row in found] == expected
    assert [row["id"] for row in found] == [f"s{number}/{i}" for number, i in expected]
    assert [index.classes[row["label"]] for row in found] == [f"s{number}" for number, _ in expected]
    assert {len(chunk) for chunk in index.rows.column("id").chunks[:-1]} <= {4}
    assert index.rows.column("id").type == pa.string()
