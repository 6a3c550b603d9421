"""What the web puts into shards: nothing stops a reader, nothing is lost silently, counts are exact."""

import gzip
import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest
import webdataset
from fuzz_readers import fuzz_readers, read_tar
from pair_files import FORMATS, example, pairs
from tensorboardX.record_writer import RecordWriter

from align_jax.data import captions
from align_jax.data import source as sources
from align_jax.data.rows import BadShard
from align_jax.data.source import BadExample
from align_jax.data.tar_members import members
from align_jax.types import AlignError

PAIRS = pairs(8)


def opened(tmp_path, name, path, **options):
    """(ids, problems) of a source, with the index in a folder of the test."""
    source = sources.make(name=name, path=str(path), index=str(tmp_path / "index"), **options)
    lines = (tmp_path / "index" / "problems.jsonl").read_text().splitlines()
    listed = [(json.loads(line)["key"], json.loads(line)["reason"]) for line in lines]
    assert len(listed) == sum(source.problems.values())
    return source.ids().to_pylist(), listed


def whole_tar(tmp_path):
    """The one shard of eight pairs."""
    FORMATS["tar"](tmp_path / "data", PAIRS)
    return tmp_path / "data" / "000.tar"


def ids(numbers):
    return [f"000/k{number:03d}" for number in numbers]


@pytest.mark.parametrize("where", ["image", "text", "header", "between"])
def test_a_cut_tar_keeps_what_is_whole(tmp_path, where):
    path = whole_tar(tmp_path)
    with tarfile.open(path) as tar:
        found = {member.name: member for member in tar}
    image, text = found["k005.jpg"], found["k005.txt"]
    cut = {"image": image.offset_data + 100, "text": text.offset_data + 3, "header": image.offset + 200,
           "between": image.offset}[where]  # fmt: skip
    path.write_bytes(path.read_bytes()[:cut])
    first = min(image.offset, text.offset)
    expected = "" if cut <= first or where in ("header", "between") else "k005"
    # The record that is cut in two is part of the cut, and no further problem.
    assert opened(tmp_path, "tar", path) == (ids(range(5)), [(expected, "shard truncated")])


def test_a_tar_that_breaks_off_in_each_block(tmp_path):
    """Wherever it is cut: the pairs before, and one mark that it is cut."""
    data = whole_tar(tmp_path).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = list(tar)
    ends = [max(m.offset_data + m.size for m in found if m.name.startswith(pair.key)) for pair in PAIRS]
    for cut in range(512, max(ends) + 512, 512):
        rows = read_tar(data[:cut])
        assert rows.problems[0 if rows.problems[0].reason.startswith("shard") else -1].reason == "shard truncated"
        whole = [pair.key for pair, end in zip(PAIRS, ends, strict=True) if end <= cut]
        kept = [name.removeprefix("s/") for name in rows.table().column("id").to_pylist()]
        assert kept[: len(whole)] == whole and len(kept) <= len(whole) + 1  # its json may be cut off


def test_a_damaged_header_ends_a_tar(tmp_path):
    path = whole_tar(tmp_path)
    with tarfile.open(path) as tar:
        offset = min(member.offset for member in tar if member.name.startswith("k003"))
    data = bytearray(path.read_bytes())
    data[offset + 130] ^= 1
    path.write_bytes(data)
    assert opened(tmp_path, "tar", path) == (ids(range(3)), [("", "shard damaged")])


def test_what_is_no_tar(tmp_path):
    (tmp_path / "data").mkdir()
    path = whole_tar(tmp_path / "data")
    (path.parent / "001.tar").write_bytes(b"")
    (path.parent / "002.tar").write_bytes(b"no tar at all" * 100)
    found = opened(tmp_path, "tar", path.parent / "*.tar")
    assert found == (ids(range(8)), [("", "shard empty"), ("", "shard unreadable")])
    zipped = tmp_path / "zipped.tar.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(AlignError, match=r"zipped\.tar\.gz: expected a tar that is not compressed, found gzip"):
        sources.make(name="tar", path=str(zipped), index=str(tmp_path / "zipped"))


def test_records_that_are_none(tmp_path):
    path = tmp_path / "000.tar"
    image = PAIRS[0].image
    with webdataset.TarWriter(str(path)) as writer:
        for key, fields in (
            ("k000", {"jpg": image, "txt": "good"}),
            ("no-image", {"txt": "text"}),
            ("no-text", {"jpg": image}),
            ("neither", {"cls": "3"}),
            ("empty-image", {"jpg": b"", "txt": "text"}),
            ("empty-text", {"jpg": image, "txt": " \n"}),
            ("latin", {"jpg": image, "txt": "café".encode("latin-1")}),
            ("k000", {"jpg": image, "txt": "again"}),
            ("k001", {"jpg": image, "txt": "good"}),
            ("k001", {"jpg": image, "txt": "at once again"}),
        ):
            writer.write({"__key__": key} | fields)
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("README"))
        tar.addfile(tarfile.TarInfo("._k002.jpg"))
    found, listed = opened(tmp_path, "tar", path)
    assert found == ids(range(2))
    assert sorted(listed) == sorted([
        ("no-image", "image missing"), ("no-text", "text missing"), ("neither", "image missing"),
        ("empty-image", "image empty"), ("empty-text", "text empty"), ("latin", "text not UTF-8"),
        ("k000", "key repeated"), ("k001", "key repeated"), ("README", "member without ending"),
        ("._k002.jpg", "member without ending"),
    ])  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_every_kind(tmp_path, form):
    """Long and foreign names, links, folders and headers for all members, as Python's own tarfile writes them."""
    names = ["кот/猫", "a" * 60 + "/" + "b" * 90, "c" * 100]
    names += ["d" * 300] if form != tarfile.USTAR_FORMAT else []
    extra = {"pax_headers": {"comment": "of all"}} if form == tarfile.PAX_FORMAT else {}
    path = tmp_path / "000.tar"
    with tarfile.open(path, "w", format=form, **extra) as tar:
        for name in names:
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "x" * (200 if form != tarfile.USTAR_FORMAT else 20)
            tar.addfile(link)
            for ending, data in (("jpg", b"picture"), ("txt", b"text")):
                member = tarfile.TarInfo(f"{name}.{ending}" if len(name) < 99 else f"{name[4:]}.{ending}")
                member.size, member.mtime = len(data), 0.5
                tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as tar, path.open("rb") as stream:
        expected = [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]
        assert [tuple(member) for member in members(stream, path.stat().st_size)] == expected
    found, listed = opened(tmp_path, "tar", path)
    assert not listed and found == [f"000/{name if len(name) < 99 else name[4:]}" for name in names]


def test_sizes_beyond_octal(tmp_path):
    """GNU writes 8 GiB and more in binary, pax as a further header; a name that is no UTF-8 stays readable."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        header = tarfile.TarInfo("x.jpg")
        header.size = 1 << 34
        data = header.tobuf(form)
        with pytest.raises(BadShard, match="shard truncated") as error:
            list(members(io.BytesIO(data), len(data)))
        assert error.value.key == "x.jpg"
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert tar.next().size == 1 << 34
    header = tarfile.TarInfo("caf\udce9.jpg")
    data = header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + bytes(1024)
    assert [member.name for member in members(io.BytesIO(data), len(data))] == ["caf\\xe9.jpg"]


@pytest.mark.parametrize("size", ["9" * 5000, "-1", "1_0", ""])
def test_a_size_that_is_no_number(size):
    member = tarfile.TarInfo("x.jpg")
    member.pax_headers = {"size": size}
    data = member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    with pytest.raises(BadShard, match="shard damaged"):
        list(members(io.BytesIO(data), len(data)))


def test_tars_put_together_by_cat(tmp_path):
    path = whole_tar(tmp_path)
    with webdataset.TarWriter(str(tmp_path / "b.tar")) as writer:
        writer.write({"__key__": "k008", "jpg": b"picture", "txt": "text"})
    path.write_bytes(path.read_bytes() + (tmp_path / "b.tar").read_bytes())
    assert opened(tmp_path, "tar", path) == (ids(range(9)), [])


@pytest.mark.parametrize(
    ("damage", "kept", "problem"),
    [
        (lambda data, ends: data[: ends[4] + 5], 5, [("", "shard truncated")]),
        (lambda data, ends: data[: ends[4] + 300], 5, [("", "shard truncated")]),
        (lambda data, ends: data[: ends[4]], 5, []),
        (lambda data, ends: data[: ends[4]] + b"\x7f" + data[ends[4] + 1 :], 5, [("", "shard damaged")]),
        (lambda data, ends: data[: ends[7] - 1] + b"??", 7, [("7", "record checksum wrong"), ("", "shard truncated")]),
        (lambda data, ends: b"no TFRecord, but long enough to be", 0, [("", "shard unreadable")]),
        (lambda data, ends: b"", 0, [("", "shard empty")]),
    ],
    ids=["in a head", "in a record", "between", "length", "checksum", "text", "empty"],
)
def test_a_cut_or_damaged_tfrecord(tmp_path, damage, kept, problem):
    good = tmp_path / "good"
    FORMATS["tfrecord"](good, PAIRS)
    path = good / "000.tfrecord"
    data = path.read_bytes()
    ends, at = [], 0
    while at < len(data):
        at += 16 + int.from_bytes(data[at : at + 8], "little")
        ends.append(at)
    path.write_bytes(damage(data, ends))
    (tmp_path / "x.tfrecord").write_bytes(data)  # so that some record is left
    found, listed = opened(tmp_path, "tfrecord", f"{{{path},{tmp_path}/x.tfrecord}}")
    assert [name.rpartition("/")[2] for name in found] == [f"k{i:03d}" for i in [*range(kept), *range(8)]]
    assert listed == problem


def test_examples_that_are_no_pairs(tmp_path):
    for kind in ("tfrecord", "array_record"):
        (tmp_path / kind).mkdir()
        FORMATS[kind](tmp_path / kind / "data", PAIRS[:1])
    path = tmp_path / "000.tfrecord"
    writer = RecordWriter(str(path))
    good = {"key": ["k000"], "jpg": [b"picture"], "txt": ["text"]}
    for features in (good, good, good | {"jpg": []}, good | {"jpg": [3]}, good | {"jpg": [""]}, good | {"key": []},
                     {"key": ["k1"], "jpg": ["x"]}, good | {"key": ["k2"], "txt": [b"\xff", " "]},
                     good | {"key": [b"\xff"]}):  # fmt: skip
        writer.write(example(features))
    writer.write(b"\xffno example")
    writer.close()
    found, listed = opened(tmp_path, "tfrecord", path)
    assert found == ["000/k000", "000/\\xff"]
    assert listed == [
        ("k000", "key repeated"), ("k000", "image missing"), ("k000", "image missing"), ("k000", "image empty"),
        ("5", "key missing"), ("k1", "text missing"), ("k2", "text empty"), ("9", "record unreadable"),
    ]  # fmt: skip


def test_a_gzipped_tfrecord_is_refused(tmp_path):
    FORMATS["tfrecord"](tmp_path / "data", PAIRS)
    path = tmp_path / "data" / "000.tfrecord"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(AlignError, match=r"000\.tfrecord: expected TFRecord that is not compressed, found gzip"):
        sources.make(name="tfrecord", path=str(path), index=str(tmp_path / "index"))


@pytest.mark.parametrize("kind", ["array_record", "parquet"])
def test_files_with_their_table_at_the_end(tmp_path, kind):
    """Of one that is cut, nothing is left."""
    options = FORMATS[kind](tmp_path / "data", pairs(24))
    one, two, _ = sorted((tmp_path / "data").iterdir())
    one.write_bytes(one.read_bytes()[:-100])
    two.write_bytes(b"")
    source = sources.make(**options, index=str(tmp_path / "index"))
    assert source.ids().to_pylist() == [f"002/k{i:03d}" for i in range(16, 24)]
    assert dict(source.problems) == {"shard unreadable": 1, "shard empty": 1}


def test_a_damaged_record_of_an_array_record(tmp_path):
    options = FORMATS["array_record"](tmp_path / "data", PAIRS)
    path = tmp_path / "data" / "000.array_record"
    data = bytearray(path.read_bytes())
    at = data.find(PAIRS[3].image[-60:-40])
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    source = sources.make(**options, index=str(tmp_path / "index"))
    assert source.ids().to_pylist() == ids([0, 1, 2, 4, 5, 6, 7]) and dict(source.problems) == {"record unreadable": 1}
    assert source[3].image == PAIRS[4].image


def test_a_damaged_row_group_is_a_bad_example(tmp_path):
    options = FORMATS["parquet"](tmp_path / "data", PAIRS)
    path = tmp_path / "data" / "000.parquet"
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    assert chunk.path_in_schema == "image.bytes"
    data[chunk.dictionary_page_offset : chunk.dictionary_page_offset + 100] = bytes(100)
    path.write_bytes(data)
    source = sources.make(**options, index=str(tmp_path / "index"))
    assert len(source) == 8 and source[3].image == PAIRS[3].image
    with pytest.raises(BadExample, match="row group unreadable"):
        source[0]


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (b"plain", "plain"), ("plain", "plain"), (b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("café 猫 👩\u200d🚀".encode(), "café 猫 👩\u200d🚀"), ("a\0b\x07\x1bc\x7f\x9bd", "a b c d"),
        (" one \t two\r\n\nthree ", "one two three"), ("half \ud83d pair", "half pair"), ("\0 \n", ""), (b"", ""),
        ("word " * 100_000, ("word " * 100_000).strip()),
    ],
    ids=range(10),
)  # fmt: skip
def test_a_clean_caption(stored, text):
    assert captions.clean(stored) == text
    text.encode()


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ([], "text missing"),
        (["", " \0"], "text empty"),
        ([b"caf\xe9"], "text not UTF-8"),
        ([b"\xff", ""], "text empty"),
    ],
)
def test_no_usable_caption(texts, reason):
    with pytest.raises(BadExample, match=reason):
        captions.usable(texts)
    assert captions.usable([*texts, "good"]) == ("good",)


def test_no_bytes_break_a_reader():
    found = fuzz_readers(150, seed=0)
    assert sum(found.values()) >= 300
    for name in ("tar", "tfrecord"):  # the inputs reach behind the first header
        assert found[f"{name}: some records, some problems"] > 5 and found[f"{name}: no records, some problems"] > 5
