"""Our tfds builders: small files in the exact layout of each distributor, built, and read by name."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simple_parsing
import tensorflow_datasets as tfds
import webdataset as wds
from PIL import Image
from tensorflow_datasets.scripts.cli import build as tfds_build

from align_jax import build as verb
from align_jax.data import source as sources
from align_jax.datasets import BUILDERS, builder, layout
from align_jax.types import AlignError

ROOT = Path(__file__).parent.parent
# tfds asks protobuf for what protobuf 6 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*label\(\) is deprecated:DeprecationWarning")


def jpeg(number):
    """The bytes of a small JPEG, another for each number."""
    file = io.BytesIO()
    Image.new("RGB", (16 + number % 7, 12), (number * 37 % 256, number * 11 % 256, 90)).save(file, "JPEG")
    return file.getvalue()


def write(path, content):
    """Writes bytes, a text or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def build(name, source, data_dir):
    return verb.build(name, source, str(data_dir))


def rows(name, split, data_dir):
    """What is stored, undecoded: texts as str, lists as they are."""
    made = tfds.builder(name, data_dir=str(data_dir), file_format="array_record")
    if "captions" not in made.info.features:
        return [plain(row) for row in made.as_data_source(split)]
    pictures = made.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return [plain(row) | {"image": row["image"]} for row in pictures]


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def refused(name, source, tmp_path, match):
    """One line, and nothing is written."""
    with pytest.raises(AlignError, match=match) as error:
        build(name, source, tmp_path / "built")
    assert "\n" not in str(error.value)
    written = [path for path in (tmp_path / "built").rglob("*") if path.is_file()]
    assert all(path.name == ".config" or "metadata" in path.name for path in written), written


def karpathy(coco, splits=("train", "restval", "val", "test"), images=8):
    """dataset_*.json with all the keys that Karpathy's files have, 5 sentences an image, and the path of each image."""
    found, paths = [], []
    for i in range(images):
        name = f"COCO_val2014_{i:012d}.jpg" if coco else f"{1000092795 + i}.jpg"
        texts = [f"Caption {j} of image {i}, at a caf\u00e9." for j in range(5)]
        sentences = [
            {"tokens": text.lower().split(), "raw": text, "imgid": i, "sentid": 10 * i + j}
            for j, text in enumerate(texts)
        ]
        split = splits[i % len(splits)]
        image = {"sentids": [s["sentid"] for s in sentences], "imgid": i, "sentences": sentences, "split": split,
                 "filename": name}  # fmt: skip
        found.append(image | ({"filepath": "val2014", "cocoid": 500 + i} if coco else {}))
        paths.append(f"{'val2014' if coco else 'flickr30k-images'}/{name}")
    return {"images": found, "dataset": "coco" if coco else "flickr30k"}, paths


@pytest.fixture
def flickr(tmp_path):
    """Flickr30k as downloaded."""
    content, paths = karpathy(False, ("train", "val", "test"), 9)
    write(tmp_path / "flickr" / "dataset_flickr30k.json", content)
    for i, path in enumerate(paths):
        write(tmp_path / "flickr" / path, jpeg(i))
    return tmp_path / "flickr"


@pytest.fixture
def coco(tmp_path):
    """COCO as downloaded; all images from val2014."""
    content, paths = karpathy(True)
    write(tmp_path / "coco" / "dataset_coco.json", content)
    (tmp_path / "coco" / "train2014").mkdir()
    for i, path in enumerate(paths):
        write(tmp_path / "coco" / path, jpeg(i))
    return tmp_path / "coco"


def test_flickr30k_is_read_by_name_with_the_bytes_of_its_files(flickr, tmp_path):
    build("flickr30k", flickr, tmp_path)
    images = json.loads((flickr / "dataset_flickr30k.json").read_text())["images"]
    for split in ("train", "val", "test"):
        source = sources.make(name="tfds", dataset="flickr30k", split=split, data_dir=str(tmp_path), texts="captions",
                              id="id")  # fmt: skip
        expected = [image for image in images if image["split"] == split]
        assert len(source) == len(expected) == 3 and source.problems == {}
        assert source.ids().to_pylist() == [Path(image["filename"]).stem for image in expected]
        for record, image in zip((source[i] for i in range(3)), expected, strict=True):
            assert record.image == (flickr / "flickr30k-images" / image["filename"]).read_bytes()
            assert record.texts == tuple(sentence["raw"] for sentence in image["sentences"])
            assert record.id == Path(image["filename"]).stem
        for row, image in zip(rows("flickr30k", split, tmp_path), expected, strict=True):
            assert row["sentence_ids"] == image["sentids"] and row["image/filename"] == image["filename"]


def test_restval_is_trained_on_and_still_told(coco, tmp_path):
    build("coco_karpathy", coco, tmp_path)
    images = json.loads((coco / "dataset_coco.json").read_text())["images"]
    found = {split: rows("coco_karpathy", split, tmp_path) for split in ("train", "val", "test")}
    assert [row["karpathy_split"] for row in found["train"]] == ["train", "restval"] * 2
    assert {row["id"] for row in found["val"]} == {"502", "506"}
    for row in [row for split in found.values() for row in split]:
        image = images[int(row["id"]) - 500]
        assert row["image"] == (coco / "val2014" / image["filename"]).read_bytes()
        assert row["karpathy_split"] == image["split"] and row["sentence_ids"] == image["sentids"]
        assert row["captions"] == [sentence["raw"] for sentence in image["sentences"]]


def test_what_is_larger_than_a_shard_keeps_its_order(flickr, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SHARD", 2)
    (made,) = build("flickr30k", flickr, tmp_path)
    assert made.info.splits["train"].shard_lengths == [2, 1]
    assert [row["id"] for row in rows("flickr30k", "train", tmp_path)] == ["1000092795", "1000092798", "1000092801"]


def test_a_second_build_writes_nothing(flickr, tmp_path, capsys):
    (made,) = build("flickr30k", flickr, tmp_path / "built")
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(made.data_dir).iterdir()}
    (flickr / "dataset_flickr30k.json").unlink()
    build("flickr30k", flickr, tmp_path / "built")
    assert files == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(made.data_dir).iterdir()}
    assert f"flickr30k/1.0.0 stands already in {made.data_dir}" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "built").iterdir()] == ["flickr30k"]  # no folders of tfds' downloads


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: (d / "dataset_flickr30k.json").rename(d / "flickr.json"),
         r"expected dataset_flickr30k\.json, flickr30k-images/ in .*, found no dataset_flickr30k\.json among "
         r"\['flickr\.json', 'flickr30k-images/'\]"),
        (lambda d: (d / "flickr30k-images").rename(d / "images"), "found no flickr30k-images/ among"),
        (lambda d: (d / "flickr30k-images" / "1000092799.jpg").unlink(),
         r"expected the 9 images that it names in .*, found no flickr30k-images/1000092799\.jpg and 0 others"),
        (lambda d: (d / "dataset_flickr30k.json").write_text("{"), r"dataset_flickr30k\.json: expected JSON, found"),
        (lambda d: (d / "dataset_flickr30k.json").write_text("[]"), r"expected the keys \['images'\], found list"),
        (lambda d: edit(d, lambda image: image.pop("split")), r"image 4: expected the keys .*'split'.*, found \["),
        (lambda d: edit(d, lambda image: image["sentences"][1].pop("sentid")), "image 4: a sentence: expected"),
        (lambda d: edit(d, lambda image: image.update(split="dev")), r"expected a split of \['train'.*found 'dev'"),
    ],
)  # fmt: skip
def test_a_wrong_layout_is_one_line(flickr, tmp_path, change, match):
    change(flickr)
    refused("flickr30k", flickr, tmp_path, match)


def edit(folder, change):
    content = json.loads((folder / "dataset_flickr30k.json").read_text())
    change(content["images"][4])
    write(folder / "dataset_flickr30k.json", content)


def test_a_split_without_images_is_refused(coco, tmp_path):
    write(coco / "dataset_coco.json", karpathy(True, ("train", "val"))[0])
    refused("coco_karpathy", coco, tmp_path, "expected images of split test, found none")


LANGUAGES = {"task1": ("en", "de", "fr", "cs"), "task2": ("en", "de")}
TEST = {"task1": "test_2016_flickr", "task2": "test_2016"}


@pytest.fixture
def multi30k(tmp_path):
    """A clone of multi30k/dataset with Flickr30k's images beside its data."""
    folder, number = tmp_path / "multi30k", 0
    for task, languages in LANGUAGES.items():
        for split in ("train", "val", TEST[task]):
            images = [f"{100 * ('train', 'val', TEST[task]).index(split) + i}.jpg" for i in range(3)]
            name = f"{split}.txt" if task == "task1" else f"{split}_images.txt"
            write(folder / "data" / task / "image_splits" / name, "".join(f"{image}\n" for image in images))
            for image in images:
                write(folder / "flickr30k-images" / image, jpeg(number := number + 1))
            for language in languages:
                for part in ("",) if task == "task1" else (".1", ".2", ".3", ".4", ".5"):
                    # A line separator of Unicode ends no line.
                    texts = [f"{language}{part} {split}\u2028{i}\n" for i in range(3)]
                    path = folder / "data" / task / "raw" / f"{split}{part}.{language}.gz"
                    write(path, gzip.compress("".join(texts).encode()))
    return folder


def test_multi30k_has_both_tasks(multi30k, tmp_path):
    build("multi30k", multi30k, tmp_path)
    for split in ("train", "val", "test"):
        one, two = (rows(f"multi30k/{task}", split, tmp_path) for task in LANGUAGES)
        for i, (first, second) in enumerate(zip(one, two, strict=True)):
            name = first["image/filename"]
            assert first["image"] == second["image"] == (multi30k / "flickr30k-images" / name).read_bytes()
            assert first["id"] == second["id"] == Path(name).stem
            stem = split if split != "test" else TEST["task1"]
            assert first["captions"] == [f"{language} {stem}\u2028{i}" for language in LANGUAGES["task1"]]
            assert [first[f"captions/{language}"] for language in LANGUAGES["task1"]] == [
                [t] for t in first["captions"]
            ]
            stem = split if split != "test" else TEST["task2"]
            assert second["captions/de"] == [f"de.{part} {stem}\u2028{i}" for part in range(1, 6)]
            assert second["captions"] == second["captions/en"] + second["captions/de"]
    source = sources.make(name="tfds", dataset="multi30k/task2", split="train", data_dir=str(tmp_path),
                          texts="captions/de")  # fmt: skip
    assert len(source[0].texts) == 5 and source[0].texts[0].startswith("de.1 train")


def test_multi30k_counts_its_lines(multi30k, tmp_path):
    path = multi30k / "data" / "task1" / "raw" / "val.fr.gz"
    write(path, gzip.compress(b"one\ntwo\n"))
    refused("multi30k", multi30k, tmp_path, r"val\.fr\.gz: expected 3 lines, .*found 2")
    write(path, b"no gzip")
    refused("multi30k", multi30k, tmp_path, r"val\.fr\.gz: expected UTF-8 text, found")
    path.unlink()
    refused("multi30k", multi30k, tmp_path, r"val\.fr\.gz: expected UTF-8 text, found")


RATED = {
    "sts": (["caption1", "caption2"], "COCO_val2014:sentid:10,COCO_val2014:sentid:21"),
    "sis": (["image1", "image2"], "COCO_val2014_000000000001.jpg,COCO_val2014_000000000002.jpg"),
    "sits": (["caption", "image"], "COCO_val2014:sentid:21,COCO_val2014_000000000001.jpg"),
}


@pytest.fixture
def ratings(tmp_path):
    """The csv files of Crisscrossed Captions: two ratings each."""
    for task, (columns, pair) in RATED.items():
        for split in ("val", "test"):
            lines = [",".join([*columns, "agg_score", "sampling_method"]), f"{pair},1.24,c2c_isim", f"{pair},5.0,other"]
            write(tmp_path / "cxc" / f"{task}_{split}.csv", "\n".join(lines) + "\n")
    return tmp_path / "cxc"


def test_ratings_name_captions_and_images_as_coco_does(ratings, coco, tmp_path):
    assert [made.builder_config.name for made in build("crisscrossed_captions", ratings, tmp_path)] == list(RATED)
    build("coco_karpathy", coco, tmp_path)
    images = [row for split in ("train", "val", "test") for row in rows("coco_karpathy", split, tmp_path)]
    names, sentences = {row["image/filename"] for row in images}, {i for row in images for i in row["sentence_ids"]}
    values = {"caption": 21, "caption1": 10, "caption2": 21, "image": "COCO_val2014_000000000001.jpg",
              "image1": "COCO_val2014_000000000001.jpg", "image2": "COCO_val2014_000000000002.jpg"}  # fmt: skip
    for task, (columns, _) in RATED.items():
        for split in ("val", "test"):
            first, second = rows(f"crisscrossed_captions/{task}", split, tmp_path)
            assert {column: first[column] for column in columns} == {column: values[column] for column in columns}
            assert all(first[column] in names | sentences for column in columns)
            assert first["score"] == np.float32(1.24) and first["sampling"] == "c2c_isim"
            assert second["score"] == 5 and second["sampling"] == "other"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,caption,agg_score,sampling_method\n", r"expected the columns \['caption', 'image', 'agg_score'"),
        ("caption,image,agg_score,sampling_method\n7,COCO_val2014_000000000001.jpg,1,x\n",
         r"sits_val\.csv:2: expected caption like .*, found '7'"),
        ("caption,image,agg_score,sampling_method\nCOCO_val2014:sentid:7,COCO_val2014_000000000001.jpg,6,x\n",
         r"sits_val\.csv:2: expected an agg_score of 0 to 5, found '6'"),
    ],
)  # fmt: skip
def test_wrong_ratings_are_one_line(ratings, tmp_path, text, match):
    write(ratings / "sits_val.csv", text)
    refused("crisscrossed_captions/sits", ratings, tmp_path, match)


@pytest.fixture
def genome(tmp_path):
    """Visual Genome as downloaded: region descriptions 1.2, objects 1.4, attributes 1.2."""
    folder, base = tmp_path / "genome", "https://cs.stanford.edu/people/rak248"
    images, regions, objects, attributes = [], [], [], []
    for i in range(1, 5):
        part = ("VG_100K", "VG_100K_2")[i % 2]
        write(folder / part / f"{i}.jpg", jpeg(i))
        images.append({"width": 800, "url": f"{base}/{part}/{i}.jpg", "height": 600, "image_id": i,
                       "coco_id": 9 if i == 3 else None, "flickr_id": 8505158818 if i == 3 else None})  # fmt: skip
        regions.append({"regions": [
            {"region_id": 1382 + j, "width": 82, "height": 139, "image_id": i, "phrase": f"region {j} of {i}", "y": -7,
             "x": 421} for j in range(i)
        ], "id": i})  # fmt: skip
        objects.append({"image_id": i, "objects": [
            {"synsets": ["tree.n.01"] * j, "h": 557, "object_id": 1058549 + j, "merged_object_ids": [], "w": 799,
             "names": [f"tree {k}" for k in range(j + 1)], "y": 0, "x": j} for j in range(2)
        ], "image_url": f"{base}/{part}/{i}.jpg"})  # fmt: skip
        attributes.append({"image_id": i, "attributes": [
            {"synsets": [], "h": 5, "object_id": 7, "names": ["clock"], "w": 6, "attributes": ["green", "tall"], "y": 2,
             "x": 1},
            {"synsets": [], "h": 5, "object_id": 8, "names": ["shade"], "w": 6, "y": 2, "x": 1},
        ]})  # fmt: skip
    # The files need not be in one order, and objects.json lacks an image.
    for name, content in (("image_data", images), ("region_descriptions", regions[::-1]), ("objects", objects[:3]),
                          ("attributes", attributes)):  # fmt: skip
        write(folder / f"{name}.json", content)
    return folder


def test_visual_genome_keeps_regions_objects_and_attributes(genome, tmp_path):
    build("visual_genome", genome, tmp_path)
    found = rows("visual_genome", "train", tmp_path)
    assert [row["id"] for row in found] == ["1", "2", "3", "4"]
    for i, row in enumerate(found, 1):
        assert row["image"] == jpeg(i) and row["image/filename"] == f"{('VG_100K', 'VG_100K_2')[i % 2]}/{i}.jpg"
        assert row["captions"] == [f"region {j} of {i}" for j in range(i)]
        assert row["regions/id"] == [1382 + j for j in range(i)] and row["regions/box"] == [[421, -7, 82, 139]] * i
        assert (row["width"], row["height"]) == (800, 600)
        assert (row["coco_id"], row["flickr_id"]) == ((9, 8505158818) if i == 3 else (-1, -1))
        assert row["attributed/id"] == [7, 8] and row["attributed/box"] == [[1, 2, 6, 5]] * 2
        assert row["attributed/names"] == ["clock", "shade"] and row["attributed/names_of"] == [0, 1]
        assert row["attributed/attributes"] == ["green", "tall"] and row["attributed/attributes_of"] == [0, 0]
        if i < 4:
            assert row["objects/id"] == [1058549, 1058550]
            assert row["objects/box"] == [[0, 0, 799, 557], [1, 0, 799, 557]]
            assert row["objects/names"] == ["tree 0", "tree 0", "tree 1"] and row["objects/names_of"] == [0, 1, 1]
            assert row["objects/synsets"] == ["tree.n.01"] and row["objects/synsets_of"] == [1]
    assert found[3]["objects/id"] == found[3]["objects/box"] == found[3]["objects/names"] == []
    source = sources.make(name="tfds", dataset="visual_genome", split="train", data_dir=str(tmp_path), texts="captions")
    assert source[1].texts == ("region 0 of 2", "region 1 of 2")


def test_visual_genome_files_must_fit_together(genome, tmp_path):
    regions = json.loads((genome / "region_descriptions.json").read_text())
    write(genome / "region_descriptions.json", [*regions, {"id": 77, "regions": []}])
    refused("visual_genome", genome, tmp_path, "item 4: expected an image of image_data.json, found 77")
    write(genome / "region_descriptions.json", json.dumps(regions)[:-40])
    refused("visual_genome", genome, tmp_path, r"region_descriptions\.json: expected objects in JSON, found")
    write(genome / "region_descriptions.json", {"regions": []})
    refused("visual_genome", genome, tmp_path, r"region_descriptions\.json: expected a list in JSON, found")
    (genome / "VG_100K" / "2.jpg").unlink()
    refused("visual_genome", genome, tmp_path, r"found no VG_100K/2\.jpg and 0 others")


@pytest.mark.parametrize("piece", [2, 7, 1 << 24])
def test_a_list_in_json_is_read_piece_by_piece(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(layout, "PIECE", piece)
    items = [{"a": '], {"}', "b": [1, {"c": "\u2028\\"}]}, {}, {"d": None}]
    for text in (json.dumps(items), json.dumps(items, indent=2), " " + json.dumps(items, ensure_ascii=False) + "\n"):
        write(tmp_path / "items.json", text)
        found = list(layout.read_items(tmp_path / "items.json"))
        assert [value for value, _ in found] == [json.loads(text) for _, text in found] == items


def attempts(split="train"):
    """(key, url, caption, status, image) of six URLs, as img2dataset has them after a run: two have failed."""
    base = "http://host.example"
    return [
        ("000000000", f"{base}/{split}/a.jpg", "first caf\u00e9", "success", jpeg(1)),
        ("000000001", f"{base}/{split}/b.jpg", "second", "failed_to_download", None),
        ("000000002", f"{base}/{split}/c.jpg?x=1", "third, with\u2028a separator", "success", jpeg(3)),
        ("000000003", f"{base}/{split}/d.jpg", "", "success", jpeg(4)),
        ("000010000", f"{base}/{split}/e.jpg", "fifth", "failed_to_resize", None),
        ("000010001", f"{base}/{split}/f.jpg", "sixth", "success", jpeg(6)),
    ]


def img2dataset(folder, form, tried):
    """What img2dataset 1.47 leaves of two shards: its own writers, seen in its writer.py, write the same."""
    folder.mkdir(parents=True)
    for shard in ("00000", "00001"):
        table, samples = [], []
        for key, url, caption, status, image in tried:
            if key[:5] != shard:
                continue
            meta = {"caption": caption, "url": url, "key": key, "status": status, "error_message": None, "width": 16,
                    "height": 12, "original_width": 16, "original_height": 12}  # fmt: skip
            table.append(meta | ({"jpg": image, "txt": caption if image else None} if form == "parquet" else {}))
            if image is not None:
                samples.append({"__key__": key, "jpg": image, "txt": caption, "json": json.dumps(meta, indent=4)})
        pq.write_table(pa.Table.from_pylist(table), folder / f"{shard}.parquet")
        write(folder / f"{shard}_stats.json", {"count": len(table), "successes": len(samples)})
        if form == "webdataset":
            with wds.TarWriter(str(folder / f"{shard}.tar")) as tar:
                for sample in samples:
                    tar.write(sample)
        if form == "files":
            for sample in samples:
                for suffix in ("jpg", "txt", "json"):
                    write(folder / shard / f"{sample['__key__']}.{suffix}", sample[suffix])


LEFT_OUT = {"failed_to_download": 1, "failed_to_resize": 1, "caption empty": 1}


@pytest.mark.parametrize("form", ["webdataset", "files", "parquet"])
def test_what_img2dataset_leaves_is_read(tmp_path, form):
    img2dataset(tmp_path / "cc3m" / "train", form, attempts())
    img2dataset(tmp_path / "cc3m" / "val", form, [pair for pair in attempts("val") if pair[3] == "success"])
    (made,) = build("cc3m", tmp_path / "cc3m", tmp_path)
    expected = [pair for pair in attempts() if pair[4] and pair[2]]
    found = rows("cc3m", "train", tmp_path)
    assert [(r["id"], r["url"], r["captions"], r["image"]) for r in found] == [
        (key, url, [caption], image) for key, url, caption, _, image in expected
    ]
    assert [row["image/filename"] for row in found] == [f"{key}.jpg" for key, *_ in expected]
    source = sources.make(name="tfds", dataset="cc3m", split="train", data_dir=str(tmp_path), texts="captions", id="id")
    assert [source[i].id for i in range(len(source))] == source.ids().to_pylist() == [key for key, *_ in expected]
    assert source.problems == LEFT_OUT
    assert list(verb.report(made)) == [
        f"cc3m/1.0.0: 3 train, 3 val in {made.data_dir}",
        "left out of train: 3 of 6 (50.0%): 1 caption empty, 1 failed_to_download, 1 failed_to_resize",
        "left out of val: 1 of 4 (25.0%): 1 caption empty",
    ]


def test_copies_of_tars_need_no_parquet(tmp_path):
    img2dataset(tmp_path / "cc12m" / "train", "webdataset", attempts())
    for path in (tmp_path / "cc12m" / "train").glob("*.parquet"):
        path.unlink()
    (made,) = build("cc12m", tmp_path / "cc12m", tmp_path)
    assert len(rows("cc12m", "train", tmp_path)) == 3
    assert made.left_out == {"train": {"caption empty": 1}}


def test_what_was_removed_since_is_counted(tmp_path):
    img2dataset(tmp_path / "cc12m" / "train", "files", attempts())
    folder = tmp_path / "cc12m" / "train" / "00000"
    for suffix in ("jpg", "txt", "json"):
        (folder / f"000000000.{suffix}").unlink()
    (folder / "000000002.jpg").unlink()
    (folder.parent / "00001" / "000010001.jpg").write_bytes(b"")
    (made,) = build("cc12m", tmp_path / "cc12m", tmp_path)
    assert made.left_out == {"train": LEFT_OUT | {"image missing": 2, "image empty": 1}}
    assert made.info.splits["train"].num_examples == 0


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 20])


@pytest.mark.parametrize(
    ("form", "change", "match"),
    [
        ("webdataset", lambda d: truncate(d / "00001.tar"), r"00001\.tar: expected a tar, found no end of it"),
        ("webdataset", lambda d: truncate(d / "00001.parquet"), r"00001\.parquet: expected parquet, found .*again"),
        ("webdataset", lambda d: (d / "00001.tar").unlink(), "a shard for each .parquet, found none for 00001"),
        ("webdataset", lambda d: write(d / "00000.tfrecord", b""), "found tfrecord"),
        ("files", lambda d: (d / "00001").rename(d / "x"), "a shard for each .parquet, found none for 00001"),
        ("parquet", lambda d: pq.write_table(pa.table({"url": ["x"]}), d / "00001.parquet"),
         r"columns key, url, status, caption and one of \('jpg', 'png', 'webp'\).*, found \['url'\]"),
    ],
)  # fmt: skip
def test_an_unfinished_download_is_one_line(tmp_path, form, change, match):
    img2dataset(tmp_path / "cc12m" / "train", form, attempts())
    change(tmp_path / "cc12m" / "train")
    refused("cc12m", tmp_path / "cc12m", tmp_path, match)


def listed(name, folder, tried):
    """The list of the distributor; SBU's is two files."""
    if name == "sbu_captions":
        for kind, column in (("urls", 1), ("captions", 2)):
            lines = "".join(f"{pair[column]}\n" for pair in tried)
            write(folder / f"SBU_captioned_photo_dataset_{kind}.txt", lines)
        return
    file, columns = {"cc3m": ("Train_GCC-training.tsv", (2, 1)), "cc12m": ("cc12m.tsv", (1, 2))}[name]
    with (folder / file).open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n").writerows(
            [pair[column] for column in columns] for pair in tried
        )


@pytest.mark.parametrize("name", ["cc3m", "cc12m", "sbu_captions"])
def test_images_may_be_files_named_by_the_list(tmp_path, monkeypatch, name):
    monkeypatch.setattr("align_jax.datasets.web_pairs.SHARD", 4)
    folder = tmp_path / name
    folder.mkdir()
    listed(name, folder, attempts())
    # Of SBU the files are called as the URLs end, of the others by the row.
    stems = list("abcdef") if name == "sbu_captions" else [f"{row:09d}" for row in range(6)]
    suffixes = ["jpg", "", "JPEG", "jpg", "", "png"]
    for stem, suffix, pair in zip(stems, suffixes, attempts(), strict=True):
        if suffix:
            write(folder / "train" / f"{stem}.{suffix}", pair[4])
    write(folder / "train" / f"{stems[4]}.jpg", b"")
    write(folder / "train" / "notes.txt", "no image")
    (made,) = build(name, folder, tmp_path)
    found = rows(name, "train", tmp_path)
    assert [(row["id"], row["image/filename"], row["image"]) for row in found] == [
        (f"{row:09d}", f"{stems[row]}.{suffixes[row]}", attempts()[row][4]) for row in (0, 2, 5)
    ]
    expected = [attempts()[row] for row in (0, 2, 5)]
    assert [(row["url"], row["captions"]) for row in found] == [(pair[1], [pair[2]]) for pair in expected]
    assert made.left_out == {"train": {"image missing": 1, "caption empty": 1, "image empty": 1}}
    assert made.info.splits["train"].shard_lengths == [2, 1]


def test_the_header_that_img2dataset_needs_is_no_row(tmp_path):
    write(tmp_path / "cc12m" / "cc12m.tsv", "url\tcaption\nhttp://host.example/a.jpg\tone\n")
    write(tmp_path / "cc12m" / "train" / "000000000.jpg", jpeg(1))
    build("cc12m", tmp_path / "cc12m", tmp_path)
    assert [row["captions"] for row in rows("cc12m", "train", tmp_path)] == [["one"]]


def test_a_caption_that_is_no_text_is_counted(tmp_path):
    write(tmp_path / "cc12m" / "cc12m.tsv", b"http://host.example/a.jpg\tcaf\xe9\nhttp://host.example/b.jpg\tone\n")
    for row in range(2):
        write(tmp_path / "cc12m" / "train" / f"{row:09d}.jpg", jpeg(row))
    (made,) = build("cc12m", tmp_path / "cc12m", tmp_path)
    assert made.left_out == {"train": {"caption not UTF-8": 1}}


@pytest.mark.parametrize(
    ("name", "file", "text", "match"),
    [
        ("cc12m", "cc12m.tsv", None, r"found no .*cc12m\.tsv; python -m align_jax\.build --list"),
        ("cc12m", "cc12m.tsv", "a cat\thttp://host.example/a.jpg\n", r"cc12m\.tsv:1: expected url TAB caption, found"),
        ("cc3m", "Train_GCC-training.tsv", "caption\turl\na cat\thttp://x/a.jpg\none\ttwo\tthree\n",
         r"training\.tsv:3: expected caption TAB url, found \['one', 'two', 'three'\]"),
        ("cc3m", "Train_GCC-training.tsv", "a cat\thttp://x/a.jpg\n",
         r"expected images in .*train by the names 000000000\.jpg \.\., found \['picture\.jpg'\]"),
        ("cc3m", "Train_GCC-training.tsv", "", r"training\.tsv: expected a row for each image, found an empty file"),
        ("sbu_captions", "SBU_captioned_photo_dataset_urls.txt", "http://x/a.jpg\nhttp://x/b.jpg\n",
         r"urls\.txt:2: expected a line for each of .*captions\.txt, found one without"),
        ("sbu_captions", "SBU_captioned_photo_dataset_urls.txt", "a.jpg\n", r"urls\.txt:1: expected a URL, found 'a"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_one_line(tmp_path, name, file, text, match):
    write(tmp_path / name / "train" / "picture.jpg", jpeg(1))
    write(tmp_path / name / "SBU_captioned_photo_dataset_captions.txt", "one caption\n")
    if text is not None:
        write(tmp_path / name / file, text)
    refused(name, tmp_path / name, tmp_path, match)


def run(module, *flags, folder):
    """A process in which TensorFlow cannot be imported, even where it is installed."""
    write(folder / "without" / "tensorflow.py", "raise ModuleNotFoundError(\"No module named 'tensorflow'\")\n")
    path = os.pathsep.join([str(folder / "without"), str(ROOT)])
    return subprocess.run([sys.executable, "-m", module, *flags], capture_output=True, text=True, timeout=120,
                          cwd=folder, env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path})  # fmt: skip


def test_the_verb_builds_as_tfds_build_does(flickr, tmp_path):
    done = run("align_jax.build", "--dataset=flickr30k", "--source=flickr", "--data_dir=ours", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "flickr30k/1.0.0: 3 train, 3 val, 3 test in ours/flickr30k/1.0.0" in done.stdout
    # The program `tfds` imports TensorFlow for another of its commands; `build` alone does not.
    parser = simple_parsing.ArgumentParser()
    parser.add_arguments(tfds_build.Args, "args")
    flags = ["--imports=align_jax.datasets", f"--manual_dir={flickr}", f"--data_dir={tmp_path / 'theirs'}"]
    parser.parse_args(["flickr30k", *flags]).args.execute()
    for split in ("train", "val", "test"):
        assert rows("flickr30k", split, tmp_path / "ours") == rows("flickr30k", split, tmp_path / "theirs")


def test_the_verb_says_what_is_wrong_in_one_line(tmp_path):
    done = run("align_jax.build", "--dataset=flickr3k", f"--source={tmp_path}", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: --dataset: no data set 'flickr3k'; did you mean 'flickr30k'?"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("dataset", "match"),
    [
        ("multi30k/task3", "multi30k has no config 'task3'; did you mean 'task[12]'"),
        ("flickr30k/test", r"flickr30k has no config 'test'; it has none"),
        ("cc3m", "--source: expected a folder with files, found none at"),
    ],
)
def test_flags_are_checked(tmp_path, dataset, match):
    with pytest.raises(AlignError, match=match):
        build(dataset, tmp_path / "empty", tmp_path)


def test_what_is_not_built_says_how(tmp_path):
    with pytest.raises(
        AlignError, match=r"run: python -m align_jax\.build --dataset=multi30k/task2 --source=DOWNLOADS"
    ):
        sources.make(name="tfds", dataset="multi30k/task2", split="train", data_dir=str(tmp_path), texts="captions")


def test_every_data_set_says_what_to_download(capsys):
    for name, cls in BUILDERS.items():
        assert name == cls.name and "SOURCE/" in cls.MANUAL_DOWNLOAD_INSTRUCTIONS
        assert all(need in cls.MANUAL_DOWNLOAD_INSTRUCTIONS for need in cls.NEEDS if need.count("/") < 2)
