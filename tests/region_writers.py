"""Regions as other programs store them, written by the libraries that these programs use."""

import base64
import csv
import io
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import lmdb
import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH, CLASSES = 8, 7
SIZE = np.array([640, 480])  # pixels of each image, across and down


def images(count: int = 5, *, regions: int | None = None, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Key -> features f32 [n, F], boxes f32 [n, 4] in pixels, labels i64 [n], scores f32 [n], probabilities [n, 1 + C]
    with the background first. The label is the likeliest of the other classes."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        n = regions or 2 + number
        low = rng.random((n, 2)) * 0.6
        boxes = np.concatenate([low, low + 0.05 + rng.random((n, 2)) * 0.3], axis=1) * [*SIZE, *SIZE]
        odds = rng.random((n, 1 + CLASSES)).astype(np.float32)
        odds /= odds.sum(axis=1, keepdims=True)
        found[f"coco_val2014_{391895 + number:012d}"] = {
            "features": rng.normal(size=(n, WIDTH)).astype(np.float32), "boxes": boxes.astype(np.float32),
            "labels": odds[:, 1:].argmax(axis=1), "scores": odds[:, 1:].max(axis=1), "probabilities": odds,
        }  # fmt: skip
    return found


def shares(boxes: np.ndarray) -> np.ndarray:
    """f32, of pixels."""
    return (boxes.astype(np.float64) / [*SIZE, *SIZE]).astype(np.float32)


def bottom_up_tsv(path: Path, given: dict[str, Any]) -> None:
    """As tools/generate_tsv.py of bottom-up attention: by csv, whose lines end in CR LF."""
    names = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, delimiter="\t", fieldnames=names)
        for key, image in given.items():
            writer.writerow({
                "image_id": key, "image_w": SIZE[0], "image_h": SIZE[1], "num_boxes": len(image["boxes"]),
                "boxes": base64.b64encode(image["boxes"]).decode(),
                "features": base64.b64encode(image["features"]),  # written as b'..', a mistake that is about
            })  # fmt: skip


def lxmert_tsv(path: Path, given: dict[str, Any]) -> None:
    names = ["img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
             "features"]  # fmt: skip
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, delimiter="\t", fieldnames=names, lineterminator="\n")
        for key, image in given.items():
            arrays = {
                "objects_id": image["labels"].astype(np.int64), "objects_conf": image["scores"],
                "attrs_id": image["labels"].astype(np.int64), "attrs_conf": image["scores"], "boxes": image["boxes"],
                "features": image["features"],
            }  # fmt: skip
            writer.writerow(
                {"img_id": key, "img_h": SIZE[1], "img_w": SIZE[0], "num_boxes": len(image["boxes"])}
                | {name: base64.b64encode(array).decode() for name, array in arrays.items()}
            )


def uniter(image: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of UNITER's .npz."""
    norm = shares(image["boxes"])
    return {
        "norm_bb": np.concatenate([norm, norm[:, 2:] - norm[:, :2]], axis=1), "features": image["features"],
        "conf": image["scores"], "soft_labels": image["probabilities"],
    }  # fmt: skip


def uniter_npz(path: Path, given: dict[str, Any]) -> None:
    path.mkdir()
    for key, image in given.items():
        np.savez_compressed(path / f"{key}.npz", **uniter(image))


def openvqa_npz(path: Path, given: dict[str, Any]) -> None:
    """Features lie across; `info` is a pickle that nothing must load."""
    path.mkdir()
    for key, image in given.items():
        np.savez(
            path / f"{key}.npz", x=image["features"].T, bbox=image["boxes"], num_bbox=len(image["boxes"]),
            image_w=SIZE[0], image_h=SIZE[1], info=np.array({"objects": "a pickle"}, dtype=object),
        )  # fmt: skip


def uniter_lmdb(path: Path, given: dict[str, Any], *, compressed: bool = False) -> None:
    """As scripts/convert_imgdir.py: float16, arrays as msgpack-numpy encodes them, or an .npz as the value."""

    def encode(array: np.ndarray) -> dict[bytes, Any]:
        return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes()}

    with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for key, image in given.items():
            arrays = {name: array.astype(np.float16) for name, array in uniter(image).items()}
            if compressed:
                written: Any = io.BytesIO()
                np.savez_compressed(written, **arrays)
                value = written.getvalue()
            else:
                value = msgpack.packb(arrays, default=encode, use_bin_type=True)
            transaction.put(f"{key}.npz".encode(), value)
        transaction.put(b"__keys__", json.dumps(list(given)).encode())


def hdf5_table(path: Path, given: dict[str, Any]) -> None:
    """As of Visual Dialog: one table, filled up to the longest, with ids in the file."""
    most = max(len(image["boxes"]) for image in given.values())

    def filled(name: str) -> np.ndarray:
        return np.stack([
            np.pad(image[name], [(0, most - len(image[name]))] + [(0, 0)] * (image[name].ndim - 1), mode="wrap")
            for image in given.values()
        ])  # fmt: skip

    with h5py.File(path, "w") as file:
        for name in ("features", "boxes", "scores"):
            file[name] = filled(name)
        file["classes"] = filled("labels")
        file["num_boxes"] = [len(image["boxes"]) for image in given.values()]
        file["image_w"], file["image_h"] = (np.full(len(given), side) for side in SIZE)
        file.create_dataset("image_ids", data=list(given), dtype=h5py.string_dtype())


def hdf5_vqa(path: Path, given: dict[str, Any]) -> Path:
    """As of bottom-up attention for VQA: all rows in one table. Its ids stand in a pickle, which is returned."""
    stops = np.cumsum([len(image["boxes"]) for image in given.values()])
    with h5py.File(path, "w") as file:
        file["image_features"] = np.concatenate([image["features"] for image in given.values()])
        file["image_bb"] = boxes = np.concatenate([image["boxes"] for image in given.values()])
        file["spatial_features"] = np.concatenate([shares(boxes), np.zeros((len(boxes), 2), np.float32)], axis=1)
        file["pos_boxes"] = np.stack([np.concatenate([[0], stops[:-1]]), stops], axis=1)
    ids = path.with_suffix(".pkl")
    with ids.open("wb") as file:
        pickle.dump({key: np.int64(row) for row, key in enumerate(given)}, file, protocol=2)
    return ids


def hdf5_groups(path: Path, given: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for key, image in given.items():
            group = file.create_group(key)
            for name in ("features", "boxes", "labels", "scores"):
                group[name] = image[name]
            group.attrs["image_w"], group.attrs["image_h"] = SIZE


def parquet(path: Path, given: dict[str, Any], *, flat: bool = False) -> None:
    """Two rows a row group; `flat`: features and boxes as one list of numbers."""
    rows = [
        {
            "key": key, "labels": image["labels"].tolist(), "scores": image["scores"].tolist(),
            "features": (image["features"].reshape(-1) if flat else image["features"]).tolist(),
            "boxes": (shares(image["boxes"]).reshape(-1) if flat else shares(image["boxes"])).tolist(),
            "probabilities": image["probabilities"][:, 1:].tolist(),
        }
        for key, image in given.items()
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
