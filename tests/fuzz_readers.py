"""Random and mutated shards: whatever the bytes, a reader gives records, counts problems, or refuses in one line.

`fuzz_readers(count, seed)` is called by launch/soak.sh fuzz; tests/test_bad_shards.py runs a slice of it.
"""

import io
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from pair_files import example
from tensorboardX.record_writer import RecordWriter

from align_jax.data.pair_example import PairExample
from align_jax.data.rows import Rows
from align_jax.data.tar import Names, scan_tar
from align_jax.data.tfrecord import scan_records
from align_jax.types import AlignError

PLACES = ("offset", "size")


def tar_bytes(form: int) -> bytes:
    """A small tar of three pairs with short, long and foreign names."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for key in ("a", "folder/" * 20 + "b", "кот"):
            for ending, data in (
                ("jpg", b"\xff\xd8picture"),
                ("txt", "a café".encode()),
                ("json", b'{"caption": "c"}'),
            ):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def tfrecord_bytes() -> bytes:
    """A small TFRecord of three pairs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tfrecord"
        writer = RecordWriter(str(path))
        for key in ("a", "b", "c"):
            writer.write(example({"key": [key], "jpg": [b"\xff\xd8picture"], "txt": ["one", "two"]}))
        writer.close()
        return path.read_bytes()


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Random bytes, or an original with bytes changed, cut out, put in twice, or its end cut off."""
    original = draw(st.sampled_from([b"", *originals]))
    if not original:
        return draw(st.binary(max_size=2048))
    data = bytearray(original)
    places = st.integers(0, len(data) - 1)
    kinds = st.sampled_from(("byte", "bytes", "cut", "twice", "end", "checksum"))
    for kind in draw(st.lists(kinds, min_size=1, max_size=4)):
        at = min(draw(places), max(len(data) - 1, 0))
        length = draw(st.integers(1, 600))
        if kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "bytes":
            data[at : at + 8] = draw(st.binary(max_size=16))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "twice":
            data[at:at] = data[at : at + length]
        elif kind == "end":
            del data[at:]
        else:  # a header whose checksum is right though its fields are not
            _mend(data, at // 512 * 512)
    return bytes(data)


def _mend(data: bytearray, start: int) -> None:
    block = data[start : start + 512]
    if len(block) == 512:
        block[148:156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(block)


def read_tar(data: bytes) -> Rows:
    rows = Rows("s", PLACES)
    scan_tar(io.BytesIO(data), len(data), rows, Names(("txt", "json.caption"), group="json.group"))
    return rows


def read_tfrecord(data: bytes) -> Rows:
    rows = Rows("s", PLACES)
    scan_records(io.BytesIO(data), len(data), rows, pair=PairExample())
    return rows


def check(read: Callable[[bytes], Rows], data: bytes) -> str:
    """What came of one input; an exception that is no AlignError is a failure, as is a place outside the shard."""
    try:
        rows = read(data)
    except AlignError as error:
        assert "\n" not in str(error)
        return "refused"
    table = rows.table()
    for row in table.to_pylist():
        assert 0 <= row["offset"] <= row["offset"] + row["size"] <= len(data) and row["size"] and all(row["texts"])
    assert isinstance(table, pa.Table) and all(problem.reason for problem in rows.problems)
    return f"{'some' if len(table) else 'no'} records, {'some' if rows.problems else 'no'} problems"


READERS = {
    "tar": (read_tar, [tar_bytes(tarfile.PAX_FORMAT), tar_bytes(tarfile.GNU_FORMAT)]),
    "tfrecord": (read_tfrecord, [tfrecord_bytes()]),
}


def fuzz_readers(count: int, seed: int) -> dict[str, int]:
    """Gives `count` inputs to each reader. Returns how often each came out: "tar: some records, no problems" -> n."""
    found: Counter[str] = Counter()
    for name, (read, originals) in READERS.items():

        @seeded(seed)
        @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate, Phase.shrink],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(data=mutated(originals), name=st.just(name), read=st.just(read))
        def run(data: bytes, name: str, read: Callable[[bytes], Rows]) -> None:
            found[f"{name}: {check(read, data)}"] += 1

        run()
    return dict(found)
