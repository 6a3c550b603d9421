"""The same pairs in every format, each written by the ecosystem's own writer."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorboardX.record_writer import RecordWriter
from tensorflow_datasets.proto import tf_example_pb2

SHARD = 8  # pairs of a shard


class Pair(NamedTuple):
    key: str
    image: bytes
    texts: tuple[str, ...]


def pairs(count: int = 20) -> list[Pair]:
    """JPEGs cut from the contact sheet of a real run, with a text in some script each."""
    sheet = Image.open(Path(__file__).parent.parent / "launch" / "contact_sheet.png").convert("RGB")
    found = []
    for i in range(count):
        left, top = 40 * (i % 10), 40 * (i // 10)
        file = io.BytesIO()
        sheet.crop((left, top, left + 60 + i, top + 50)).save(file, "JPEG")
        found.append(Pair(f"k{i:03d}", file.getvalue(), (f"picture {i} — {['café', '猫', 'кот'][i % 3]}",)))
    return found


def shards(found: Sequence[Pair]) -> list[Sequence[Pair]]:
    return [found[start : start + SHARD] for start in range(0, len(found), SHARD)]


def example(features: dict[str, Sequence[bytes | str | int]]) -> bytes:
    """A tf.train.Example by the message itself, not by the writer of ours."""
    message = tf_example_pb2.Example()
    for name, values in features.items():
        feature = message.features.feature[name]
        for value in values:
            if isinstance(value, int):
                feature.int64_list.value.append(value)
            else:
                feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
    return message.SerializeToString()


def pair_example(pair: Pair) -> bytes:
    return example({"key": [pair.key], "jpg": [pair.image], "txt": pair.texts})


def write_tar(folder: Path, found: Sequence[Pair]) -> dict:
    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/%03d.tar", maxcount=SHARD, verbose=False) as writer:
        for pair in found:
            writer.write({"__key__": pair.key, "jpg": pair.image, "txt": pair.texts[0], "json": {"width": 3}})
    return {"name": "tar", "path": f"{folder}/{{000..{len(shards(found)) - 1:03d}}}.tar"}


def write_tfrecord(folder: Path, found: Sequence[Pair]) -> dict:
    folder.mkdir()
    for number, part in enumerate(shards(found)):
        writer = RecordWriter(f"{folder}/{number:03d}.tfrecord")
        for pair in part:
            writer.write(pair_example(pair))
        writer.close()
    return {"name": "tfrecord", "path": f"{folder}/*.tfrecord"}


def write_array_record(folder: Path, found: Sequence[Pair]) -> dict:
    folder.mkdir()
    for number, part in enumerate(shards(found)):
        writer = ArrayRecordWriter(f"{folder}/{number:03d}.array_record", "group_size:1")
        for pair in part:
            writer.write(pair_example(pair))
        writer.close()
    return {"name": "array_record", "path": f"{folder}/*.array_record"}


def write_parquet(folder: Path, found: Sequence[Pair]) -> dict:
    """As Hugging Face datasets have it: {bytes, path}."""
    folder.mkdir()
    for number, part in enumerate(shards(found)):
        image = [{"bytes": pair.image, "path": f"{pair.key}.jpg"} for pair in part]
        table = pa.table({"image": image, "text": [pair.texts[0] for pair in part], "id": [pair.key for pair in part]})
        pq.write_table(table, f"{folder}/{number:03d}.parquet", row_group_size=3)
    return {"name": "parquet", "path": f"{folder}/*.parquet", "key": "id"}


def write_manifest(folder: Path, found: Sequence[Pair]) -> dict:
    folder.mkdir()
    lines = []
    for number, part in enumerate(shards(found)):
        for pair in part:
            (folder / f"{pair.key}.jpg").write_bytes(pair.image)
            row = {"id": f"{number:03d}/{pair.key}", "image": f"{pair.key}.jpg", "texts": pair.texts}
            lines.append(json.dumps(row) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines))
    return {"name": "manifest", "path": f"{folder}/pairs.jsonl"}


# Name -> writes pairs to a new folder, and gives the options of the source that reads them.
FORMATS: dict[str, Callable[[Path, Sequence[Pair]], dict]] = {
    "tar": write_tar,
    "tfrecord": write_tfrecord,
    "array_record": write_array_record,
    "parquet": write_parquet,
    "manifest": write_manifest,
}
SHARDED = [name for name in FORMATS if name != "manifest"]
