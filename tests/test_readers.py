"""Every format, written by the ecosystem's own writer, gives the same records; all of them by index alone."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from array_record.python.array_record_module import ArrayRecordWriter
from pair_files import FORMATS, SHARD, SHARDED, example, pairs
from tensorboardX.record_writer import RecordWriter

from align_jax.data import images, manifest
from align_jax.data import source as sources
from align_jax.types import AlignError

PAIRS = pairs()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Indexes go to a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "align_jax"


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_records(tmp_path, name):
    source = sources.make(**FORMATS[name](tmp_path / "data", PAIRS))
    ids = [f"{i // SHARD:03d}/{pair.key}" for i, pair in enumerate(PAIRS)]
    assert len(source) == len(PAIRS) and source.ids().to_pylist() == ids and source.ids().type == pa.string()
    assert list(source.texts()) == [text for pair in PAIRS for text in pair.texts]
    assert not source.problems and source.classes == ()
    for i, pair in enumerate(PAIRS):
        record = source[i]
        assert (record.id, record.texts, record.label) == (ids[i], pair.texts, -1)
        expected = np.asarray(images.decode(pair.image))
        np.testing.assert_array_equal(np.asarray(images.decode(record.image)), expected)
    with pytest.raises(IndexError):
        source[len(PAIRS)]


@pytest.mark.parametrize("name", SHARDED)
def test_each_shard_is_a_file_of_the_report(tmp_path, name):
    options = FORMATS[name](tmp_path / "data", PAIRS)
    found = sources.make(**options).files()
    paths = sorted((tmp_path / "data").iterdir())
    assert [file.name for file in found] == [str(path) for path in paths]
    assert [file.records for file in found] == [8, 8, 4]
    assert [file.bytes for file in found] == [path.stat().st_size for path in paths]
    assert len({file.digest for file in found}) == 3
    assert sources.make(**options, index=str(tmp_path / "again")).files() == found, "the digest is of the contents"


def test_blocks_are_what_one_read_brings(tmp_path):
    blocks = {name: sources.make(**FORMATS[name](tmp_path / name, PAIRS)).blocks for name in FORMATS}
    assert blocks.pop("parquet").tolist() == [0, 3, 6, 8, 11, 14, 16, 19]  # row groups of 3 in shards of 8
    assert set(blocks.values()) == {None}


@pytest.mark.parametrize("name", FORMATS)
def test_many_threads_read_the_same(tmp_path, name):
    source = sources.make(**FORMATS[name](tmp_path / "data", PAIRS))
    order = np.random.default_rng(0).integers(0, len(PAIRS), 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: images_of(source[i]), order))
    assert found == [PAIRS[i].image for i in order]


def images_of(record):
    """The encoded bytes of a record's image."""
    if isinstance(record.image, bytes):
        return record.image
    with open(record.image, "rb") as file:
        return file.read()


def test_a_row_group_is_read_once_for_its_neighbours(tmp_path, monkeypatch):
    source = sources.make(**FORMATS["parquet"](tmp_path / "data", PAIRS))
    opened = []
    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda *args, **options: opened.append(1) or real(*args, **options))
    for i in range(6):
        assert source[i].image == PAIRS[i].image
    assert len(opened) == 2


def test_tar_texts_of_members_and_fields(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for key, fields in (
            ("deep/er/one", {"txt": "plain", "json": {"caption": ["first", "second"], "alt": "third"}}),
            ("two", {"txt": "plain", "json": {"caption": None, "alt": 3}}),
            ("three", {"json": {"caption": "only"}}),
            ("four", {"txt": "plain", "json": b"{no json"}),
        ):
            writer.write({"__key__": key, "JPG": PAIRS[0].image} | fields)
    options = {"name": "tar", "path": str(tmp_path / "a.tar")}
    source = sources.make(**options, texts=("json.caption", "txt", "json.alt"))
    found = {source[i].id: source[i].texts for i in range(len(source))}
    assert found == {"a/deep/er/one": ("first", "second", "plain", "third"), "a/two": ("plain",),
                     "a/three": ("only",), "a/four": ("plain",)}  # fmt: skip
    assert dict(sources.make(**options).problems) == {"text missing": 1}  # of `three`
    assert len(sources.make(**options, texts="json.caption")) == 2


def test_tar_key_group_and_label_of_a_field(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for key, fields in (("0", {"uid": "x1", "show": 7, "kind": "b"}), ("1", {"uid": None, "kind": "a"}), ("2", [])):
            writer.write({"__key__": key, "jpg": PAIRS[0].image, "txt": "a text", "json": fields})
    options = {"name": "tar", "path": str(tmp_path / "a.tar")}
    source = sources.make(**options, key="json.uid", group="json.show", label="json.kind")
    records = [source[i] for i in range(3)]
    assert [(record.id, record.group, record.label) for record in records] == [
        ("a/x1", "7", 1), ("a/1", "a/1", 0), ("a/2", "a/2", -1)
    ]  # fmt: skip
    assert source.classes == ("a", "b")


def test_tar_images_by_their_ending(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "x", "left.jpg": b"left", "png": b"png", "webp": b"webp", "txt": "text"})
    assert sources.make(name="tar", path=str(tmp_path / "a.tar"))[0].image == b"png"
    assert sources.make(name="tar", path=str(tmp_path / "a.tar"), images="left.jpg")[0].image == b"left"


@pytest.mark.parametrize("kind", ["tfrecord", "array_record"])
def test_examples_with_other_names_groups_and_labels(tmp_path, kind):
    rows = [
        {"photo": [PAIRS[i].image], "alt": [f"alt {i}", ""], "title": [f"title {i}"], "label": [label], "group": ["g"]}
        for i, label in enumerate(["dog", "cat", "dog"])
    ]
    path = tmp_path / "s"
    writer = RecordWriter(str(path)) if kind == "tfrecord" else ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(example(row))
    writer.close()
    source = sources.make(name=kind, path=str(path), image="photo", texts=("title", "alt"), key=None)
    assert [source[i].id for i in range(3)] == ["s/0", "s/1", "s/2"] and source.classes == ("cat", "dog")
    assert [source[i].label for i in range(3)] == [1, 0, 1] and source[2].group == "g"
    assert source[1].texts == ("title 1", "alt 1") and source[1].image == PAIRS[1].image


def test_parquet_columns_of_every_kind(tmp_path):
    (tmp_path / "a.jpg").write_bytes(PAIRS[0].image)
    texts = {
        "plain": pa.array(["one", None]),
        "lists": pa.array([["two", "three"], []]),
        "bytes": pa.array([b"caf\xc3\xa9", b"\xff"]),
        "dictionary": pa.array(["four", "four"]).dictionary_encode(),
        "large": pa.array([["five"], None], pa.large_list(pa.large_string())),
    }
    pictures = {
        "binary": pa.array([PAIRS[0].image] * 2),
        "paths": pa.array(["a.jpg", str(tmp_path / "a.jpg")]),
        "struct": pa.array([{"bytes": None, "path": "a.jpg"}, {"bytes": PAIRS[0].image, "path": None}]),
    }
    extra = {"label": pa.array([7, 3]), "group": pa.array(["g", None])}
    pq.write_table(pa.table(texts | pictures | extra), tmp_path / "t.parquet")
    for image in pictures:
        source = sources.make(name="parquet", path=str(tmp_path / "t.parquet"), image=image, texts=list(texts),
                              label="label", group="group")  # fmt: skip
        assert source[0].texts == ("one", "two", "three", "café", "four", "five") and source[1].texts == ("four",)
        assert [source[i].label for i in range(2)] == [1, 0] and source.classes == ("3", "7")
        assert [source[i].group for i in range(2)] == ["g", "t/1"]
        assert [images_of(source[i]) for i in range(2)] == [PAIRS[0].image] * 2
    with pytest.raises(AlignError, match=r"t\.parquet: expected the columns image, text, found no image in \['plain'"):
        sources.make(name="parquet", path=str(tmp_path / "t.parquet"))
    with pytest.raises(AlignError, match=r"expected column label to hold bytes, .* found int64"):
        sources.make(name="parquet", path=str(tmp_path / "t.parquet"), image="label", texts="plain")


def test_a_manifest_of_many_batches(tmp_path, monkeypatch):
    """Rows of one image may stand far apart."""
    monkeypatch.setattr(manifest, "BATCH", 4)
    lines = ["image,text,label,id", *(f"{i % 7}.png,text {i},{'ab'[i % 2]},id {i}" for i in range(30))]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    source = sources.make(name="manifest", path=str(tmp_path / "pairs.csv"))
    assert len(source) == 7 and source.classes == ("a", "b")
    for i in range(7):
        record = source[i]
        assert (record.id, record.label, record.group) == (f"id {i}", i % 2, f"{i}.png")
        assert record.texts == tuple(f"text {j}" for j in range(i, 30, 7))
    (tmp_path / "pairs.jsonl").write_text("".join(
        json.dumps({"image": f"{i}.png", "texts": [f"a {i}", f"b\0 {i}"][: i % 3]}) + "\n" for i in range(10)
    ))  # fmt: skip
    source = sources.make(name="manifest", path=str(tmp_path / "pairs.jsonl"))
    assert [source[i].texts for i in range(3, 6)] == [(), ("a 4",), ("a 5", "b 5")]
    assert source.ids().to_pylist() == [f"{i}.png" for i in range(10)]


def test_long_and_broken_fields_of_a_csv(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(f"image,text\na.png,{'word ' * 50_000}\n")
    assert len(sources.make(name="manifest", path=str(path))[0].texts[0]) == 249_999
    path.write_text("image,text\na.png,one\rtwo\n")
    with pytest.raises(AlignError, match=r"expected values and commas, found after line 1: new-line"):
        sources.make(name="manifest", path=str(path))
    (tmp_path / "pairs.jsonl").write_text('{"image": "a.png", "text": "half \\ud83d of a pair"}\n')
    assert sources.make(name="manifest", path=str(tmp_path / "pairs.jsonl"))[0].texts == ("half of a pair",)


def test_an_image_that_a_record_holds_twice(tmp_path):
    """The index finds it by its bytes."""
    writer = RecordWriter(str(tmp_path / "a.tfrecord"))
    writer.write(example({"key": ["same"], "jpg": ["same"], "txt": ["same"]}))
    writer.close()
    record = sources.make(name="tfrecord", path=str(tmp_path / "a.tfrecord"))[0]
    assert (record.image, record.texts) == (b"same", ("same",))
