"""Where examples come from: manifests, TensorFlow Datasets, and the pictures themselves."""

import csv
import io
import json

import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tiny_run import COLOURS, manifest

from align_jax.data import images
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.types import AlignError

# tfds asks protobuf for what protobuf 6 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*label\(\) is deprecated:DeprecationWarning")


def jsonl(folder, *lines):
    path = folder / "pairs.jsonl"
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines),
        "utf-8",
    )
    return path


def open_manifest(path, **options):
    return sources.make(name="manifest", path=str(path), **options)


def test_manifest_of_json_lines(tmp_path):
    source = open_manifest(manifest(tmp_path, 8))
    assert len(source) == 8 and source.classes == tuple(sorted(COLOURS))
    record = source[5]
    assert (record.id, record.group, record.texts) == ("n5", "5.png", ("a green square", "square 5"))
    assert source.classes[record.label] == "green"
    assert images.decode(record.image).size == (40, 40)
    assert list(source.texts())[:3] == ["a red square", "square 0", "a green square"]


def test_manifest_fields(tmp_path):
    (tmp_path / "photos").mkdir()
    rows = [
        {"image": "a.png", "text": "one line\u2028or two", "group": 7},
        {"image": "b.png", "texts": [], "label": None},
    ]
    source = open_manifest(jsonl(tmp_path, rows[0], "", rows[1]), images=str(tmp_path / "photos"))
    assert source[0].image == str(tmp_path / "photos" / "a.png")
    assert source[0].texts == ("one line\u2028or two",) and source[0].group == "7" and source[0].id == "a.png"
    assert source[1].texts == () and source[1].label == -1 and source.classes == ()


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '"text"', '{"texts": ["x"]}', '{"image": "a.png"}', '{"image": "a.png", "texts": "a b"}',
     '{"image": "a.png", "texts": [1]}', '{"image": 3, "text": "x"}', '{"image": "a.png", "text": ["x"]}'],
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path, line):
    path = jsonl(tmp_path, {"image": "a.png", "text": "x"}, "", line)
    with pytest.raises(AlignError) as error:
        open_manifest(path)
    assert str(error.value).startswith(f"{path}:3: expected") and line in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_manifest_of_commas(tmp_path, encoding):
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        rows = [
            ["image", "text", "label"],
            ["a.png", "one, two", "x"],
            ["b.png", "three\nfour", "y"],
            ["a.png", "", "x"],
        ]
        csv.writer(file).writerows(rows)
    source = open_manifest(path)
    assert [source[i].texts for i in range(2)] == [("one, two", ""), ("three\nfour",)]
    assert [source[i].label for i in range(2)] == [0, 1] and source.classes == ("x", "y")


def test_bad_commas_are_named(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("picture,text\na.png,x\n")
    with pytest.raises(AlignError, match=r"columns image and text, found \['picture', 'text'\]"):
        open_manifest(path)
    path.write_text("image,text\na.png,x\n,y\n")
    with pytest.raises(AlignError, match=r"pairs\.csv:3: expected an image path"):
        open_manifest(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(AlignError, match=r"found no .*pairs\.jsonl"):
        open_manifest(tmp_path / "pairs.jsonl")
    with pytest.raises(AlignError, match=r"expected a folder, found no .*photos"):
        open_manifest(jsonl(tmp_path, {"image": "a.png", "text": "x"}), images=str(tmp_path / "photos"))
    (tmp_path / "pairs.txt").touch()
    with pytest.raises(AlignError, match=r"expected a \.jsonl or \.csv file, found .*pairs\.txt"):
        open_manifest(tmp_path / "pairs.txt")
    with pytest.raises(AlignError, match="at least one record, found none"):
        open_manifest(jsonl(tmp_path))
    (tmp_path / "pairs.jsonl").write_bytes(b'{"image": "a.png", "text": "caf\xe9"}\n')
    with pytest.raises(AlignError, match="expected UTF-8, found byte 0xe9"):
        open_manifest(tmp_path / "pairs.jsonl")


def test_source_options_are_checked(tmp_path):
    with pytest.raises(AlignError, match=r"expected one of \['array_record', .*, 'vtab'\], found 'manifst'"):
        sources.make(name="manifst")
    with pytest.raises(AlignError, match=r"expected one of .*, found ''"):
        sources.make(path="x")
    with pytest.raises(AlignError, match="unknown key 'image'; did you mean 'images'"):
        open_manifest(manifest(tmp_path), image="photos")
    with pytest.raises(AlignError, match="missing key 'path'"):
        sources.make(name="manifest")


def png(picture):
    """The encoded bytes of a picture."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Four pictures with two captions each, as real array_record files."""

    VERSION = tfds.core.Version("1.0.0")
    NAMES = ("circle", "square")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "title": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=self.NAMES),
            })
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(4):
            picture = Image.new("RGB", (8 + i, 8), (i, 0, 0))
            captions = [f"picture {i}", "caf\u00e9"]
            yield i, {"image": png(picture), "captions": captions, "title": f"title {i}", "label": i % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyShapes(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return str(folder)


def open_tfds(folder, **options):
    return sources.make(**{"name": "tfds", "dataset": "tiny_shapes", "split": "train", "data_dir": folder} | options)


def test_tfds_gives_pictures_texts_and_labels(prepared):
    source = open_tfds(prepared, texts="captions", label="label")
    assert len(source) == 4 and source.classes == TinyShapes.NAMES
    for i in range(4):
        record = source[i]
        assert isinstance(record.image, bytes)  # decoded by our readers, not by tfds
        number = images.decode(record.image).width - 8
        assert record.texts == (f"picture {number}", "caf\u00e9") and record.label == number % 2 and record.id == str(i)
    assert sorted(source.texts()) == sorted([f"picture {i}" for i in range(4)] + ["caf\u00e9"] * 4)


def test_tfds_texts_are_cleaned(prepared, monkeypatch):
    source = open_tfds(prepared, texts="captions")
    rows = [{"image": b"", "captions": texts} for texts in ([b"one\0two", b" "], [b"\xff"], ["three"])]
    monkeypatch.setattr(source, "_rows", rows)
    assert source[0].texts == ("one two",) and list(source.texts()) == ["one two", "three"]
    with pytest.raises(BadExample, match="text not UTF-8"):
        source[1]


def test_tfds_texts_may_be_one_or_the_class_name(prepared):
    assert sorted(open_tfds(prepared, texts="title").texts()) == [f"title {i}" for i in range(4)]
    source = open_tfds(prepared, texts=None, label="label")
    assert sorted(source.texts()) == ["circle", "circle", "square", "square"]
    assert source[0].texts == (TinyShapes.NAMES[source[0].label],)
    assert len(open_tfds(prepared, texts="title", split="train[:50%]")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"data\.source\.texts: tiny_shapes has no feature 'texts', only \['captions', 'image', 'label'"),
        ({"texts": "title", "image": "photo"}, "no feature 'photo'"),
        ({"texts": "title", "label": "title"}, "expected a ClassLabel"),
        ({"texts": None}, "expected texts or label"),
        ({"texts": "title", "image": "title"}, "expected an Image"),
        ({"texts": "title", "split": "test"}, r"split 'test', only train \(4\)"),
        ({"dataset": "no_such_data"}, "tfds knows no 'no_such_data'"),
        ({"dataset": "cifar10", "texts": None, "label": "label"},
         r"cifar10 is not prepared in .*; run: tfds build cifar10 --file_format=array_record --data_dir="),
    ],
    ids=str,
)  # fmt: skip
def test_tfds_errors_say_what_to_do(prepared, options, message):
    with pytest.raises(AlignError, match=message) as error:
        open_tfds(prepared, **options)
    assert "\n" not in str(error.value)


def test_tfds_may_be_missing(prepared, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(AlignError, match="run: pip install tensorflow-datasets"):
        open_tfds(prepared, texts="title")
