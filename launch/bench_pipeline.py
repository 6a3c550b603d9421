"""Pairs/s of the stream of training rows against webdataset's own pipeline, on the same tars with as many workers.

Both decode, resize to 346 px, cut a random 289 px window, mirror, tokenise with the same tokenizer and batch. Ours
reads in a global random order by threads of one process; webdataset in the order of the shards, through a buffer of
1000, by processes of torch's DataLoader. Each measurement is a fresh process; the clock starts after the first
batches. The fastest of the rounds counts, and the slowest shows the spread. The captions are made up of a few words.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from bench_decode import RESIZE, SETS, SIZE, encode
from PIL import Image, ImageOps

from align_jax.data import source as sources
from align_jax.data.pairs import Pairs
from align_jax.data.pipeline import Stream
from align_jax.data.text import WordPiece

TEXT = "a photograph of one two red old large dog house tree car on the street"
BATCH, TEXT_LENGTH = 64, 64
SHARDS = 4
WARM_UP = 10  # batches


def write(folder: Path, files: Sequence[bytes], pairs: int) -> None:
    """The same pairs as tars, and as files beside a manifest."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for shard in range(SHARDS):
        with webdataset.TarWriter(str(folder / f"{shard:05}.tar")) as tar:
            for number in range(shard * pairs // SHARDS, (shard + 1) * pairs // SHARDS):
                image, text = files[number % len(files)], " ".join(rng.choice(TEXT.split(), 12))
                tar.write({"__key__": f"{number:06}", "jpg": image, "txt": text})
                (folder / f"{number:06}.jpg").write_bytes(image)
                lines.append(json.dumps({"id": f"{number:06}", "image": f"{number:06}.jpg", "text": text}) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines))


def tokenizer() -> WordPiece:
    """Of the captions."""
    return WordPiece.train([TEXT] * 2, vocab_size=256)


def ours(folder: Path, source: str, workers: int, batches: int) -> Iterator[Any]:
    """Batches of the stream that `align_jax.main` trains on."""
    path = folder / "pairs.jsonl" if source == "manifest" else folder / "*.tar"
    transform = Pairs(tokenizer(), resize=RESIZE, crop=SIZE, flip=True, text_length=TEXT_LENGTH).train
    stream = Stream(
        source=sources.make(name=source, path=str(path)),
        transform=transform,
        batch_size=BATCH,
        rows=range(BATCH),
        steps=batches,
        seed=0,
        threads=workers,
    )
    return stream.from_step(0)


def theirs(folder: Path, workers: int) -> Iterator[Any]:
    """webdataset, as its documentation puts a pipeline together."""
    pieces = tokenizer()
    rng = np.random.default_rng()

    def image(picture: Image.Image) -> np.ndarray:
        if picture.size != (RESIZE, RESIZE):
            picture = picture.resize((RESIZE, RESIZE), Image.Resampling.BILINEAR)
        left, top = rng.integers(0, RESIZE - SIZE + 1, 2).tolist()
        window = picture.crop((left, top, left + SIZE, top + SIZE))
        return np.asarray(ImageOps.mirror(window) if rng.integers(2) else window)

    def text(caption: str) -> tuple[np.ndarray, np.ndarray]:
        ids, mask = pieces.encode([caption], TEXT_LENGTH)
        return ids[0], mask[0]

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    data = webdataset.WebDataset(shards, shardshuffle=len(shards)).repeat().shuffle(1000).decode("pil")
    data = data.to_tuple("jpg", "txt").map_tuple(image, text).batched(BATCH)
    return iter(webdataset.WebLoader(data, batch_size=None, num_workers=workers))


def pairs_per_second(batches: Iterator[Any], count: int) -> float:
    """Over `count` batches, once the first ones have come."""
    for _ in range(WARM_UP):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder with .jpg files")
    parser.add_argument("--source", default="tar", help="of ours: tar, or manifest for the same files beside a jsonl")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=1000, help="in the shards")
    parser.add_argument("--batches", type=int, default=60, help=f"of {BATCH}, that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, default=Path(".cache/pipeline"), help="folder for the shards")
    parser.add_argument("--side", choices=["ours", "webdataset"], help="measure one side once, on the shards in --keep")
    flags = parser.parse_args()
    if flags.side == "ours":
        stream = ours(flags.keep, flags.source, flags.workers, WARM_UP + flags.batches)
        print(pairs_per_second(stream, flags.batches))
        return
    if flags.side == "webdataset":
        print(pairs_per_second(theirs(flags.keep, flags.workers), flags.batches))
        return
    photos = sorted(flags.photos.glob("*.jpg"))
    report = []
    print(f"{'set':>10}{'side':>12}{'pairs/s':>10}{'spread':>8}{'ours is':>10}")
    for name in ("curated", "ordinary"):
        folder = flags.keep / name
        write(folder, encode(photos, SETS[name]), flags.pairs)
        found: dict[str, list[float]] = {"ours": [], "webdataset": []}
        for _ in range(flags.rounds):
            for side, speeds in found.items():
                command = [
                    sys.executable, __file__, f"--photos={flags.photos}", f"--source={flags.source}",
                    f"--workers={flags.workers}", f"--batches={flags.batches}", f"--keep={folder}", f"--side={side}",
                ]  # fmt: skip
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                speeds.append(float(done.stdout.split()[-1]))
        for side, speeds in found.items():
            row = {
                "set": name,
                "side": side,
                "pairs_per_second": max(speeds),
                "spread": max(speeds) / min(speeds),
                "ours_is": max(found["ours"]) / max(speeds),
            }
            print(f"{name:>10}{side:>12}{max(speeds):>10.0f}{row['spread']:>8.2f}{row['ours_is']:>9.2f}x", flush=True)
            report.append(row)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
