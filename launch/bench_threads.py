"""Reader threads against reader processes: pairs/s of the training rows, from JPEG files and texts to batches.

The same pipeline (decode, resize, crop, tokenise, batch) from the same files, by Grain's threads and by as many of its
worker processes. Both are warm when the clock starts, and run in turn; the fastest of the rounds counts.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import grain
import numpy as np
from absl import flags as absl_flags
from PIL import Image

from align_jax.data import source as sources
from align_jax.data.pairs import Pairs
from align_jax.data.pipeline import Stream
from align_jax.data.text import WordPiece

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def write_pairs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """pairs.jsonl of `count` JPEGs, smooth shapes under a little noise: about as large as photographs of their size."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        noise = rng.normal(0, 9, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
        text = " ".join("".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(10))
        lines.append(json.dumps({"image": f"{number}.jpg", "text": text}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def rate(stream: Stream, workers: int, *, processes: bool, seconds: float) -> float:
    """Pairs/s over about `seconds`, after two batches of each worker."""
    read = grain.ReadOptions(
        num_threads=1 if processes else workers, prefetch_buffer_size=2 if processes else 2 * workers
    )
    batches = stream.batches().to_iter_dataset(read)
    if processes:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    found = iter(batches)
    for _ in itertools.islice(found, 4 * workers):
        pass
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(found)
        count += 1
    taken = time.perf_counter() - start
    found.close()
    return count * stream.batch_size / taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    flags = parser.parse_args()
    absl_flags.FLAGS.mark_as_parsed()  # Grain's processes ask for a flag of its own
    results = {}
    for width, height in ((640, 480), (346, 346)):
        with tempfile.TemporaryDirectory() as folder:
            source = sources.make(name="manifest", path=str(write_pairs(Path(folder), 300, (width, height))))
            pairs = Pairs(WordPiece.train(source.texts(), 1000), resize=346, crop=289, flip=True, text_length=64)
            stream = Stream(source, pairs.train, flags.batch, range(flags.batch), 10**6, 0)
            found = {"1 thread": [], f"{flags.workers} threads": [], f"{flags.workers} processes": []}
            for _ in range(flags.rounds):
                for kind, rates in found.items():
                    processes = kind.endswith("processes")
                    rates.append(rate(stream, int(kind.split()[0]), processes=processes, seconds=flags.seconds))
        for kind, rates in found.items():
            print(f"{width}x{height}: {kind:11} {max(rates):6.0f} pairs/s, slowest of {flags.rounds}: {min(rates):.0f}")
        _, threads, processes = (max(rates) for rates in found.values())
        print(f"{width}x{height}: processes / threads {processes / threads:.2f}")
        results[f"{width}x{height}"] = found
    print(json.dumps(results))


if __name__ == "__main__":
    main()
