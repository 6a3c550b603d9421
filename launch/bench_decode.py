"""From JPEG bytes to the 289 px training window on one core: ours, bare libjpeg-turbo, Pillow, and tf.data.

All paths take the same files in turn, round after round, in this process; tf.data in one beside it that waits for its
turn, since TensorFlow is none of our dependencies. The fastest of the rounds counts, and the slowest shows the spread.
Real photographs: any folder of JPEG files serves; each is cut to the shape of its set and scaled.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from align_jax.data import images

RESIZE, SIZE = 346, 289  # pixels: ALIGN's
SETS = {"curated": (346, 346), "ordinary": (640, 480), "large": (1600, 1200)}
QUALITY = 90

Files = Sequence[bytes]


def ours(files: Files, rng: np.random.Generator) -> None:
    """What training calls."""
    for file in files:
        images.crop(file, resize=RESIZE, size=SIZE, rng=rng, flip=True)


def straight(files: Files, rng: np.random.Generator) -> None:
    """Ours without mirroring half of the windows, which numpy does byte by byte."""
    for file in files:
        images.crop(file, resize=RESIZE, size=SIZE, rng=rng, flip=False)


def raw(files: Files, rng: np.random.Generator) -> None:
    """The decoder alone, in full: no window, no resize."""
    for file in files:
        simplejpeg.decode_jpeg(file)


def pillow(files: Files, rng: np.random.Generator) -> None:
    """All decoded, all resized, then the window."""
    for file in files:
        picture = Image.open(io.BytesIO(file)).convert("RGB")
        if picture.size != (RESIZE, RESIZE):
            picture = picture.resize((RESIZE, RESIZE), Image.Resampling.BILINEAR)
        left, top = rng.integers(0, RESIZE - SIZE + 1, 2).tolist()
        window = picture.crop((left, top, left + SIZE, top + SIZE))
        np.asarray(ImageOps.mirror(window) if rng.integers(2) else window)


class TensorFlow:
    """tf.data in a process with another Python, in `mode` "full" or "window"; see launch/bench_decode_tf.py."""

    def __init__(self, python: str):
        script = Path(__file__).with_name("bench_decode_tf.py")
        self._process = subprocess.Popen(
            [python, str(script), str(RESIZE), str(SIZE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip

    def seconds(self, mode: str, folder: Path) -> float:
        """One pass over the files of `folder`."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{mode} {folder}\n".encode())
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"error: expected tensorflow in {self._process.args}, which ended; run it to see why")
        return float(answer)


def encode(photos: Sequence[Path], size: tuple[int, int]) -> list[bytes]:
    """Each photograph as a JPEG of `size`."""
    found = []
    for photo in photos:
        picture = ImageOps.fit(Image.open(photo).convert("RGB"), size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        found.append(file.getvalue())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder with .jpg files")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tensorflow", help="the python of an environment with tensorflow-cpu and numpy")
    parser.add_argument("--keep", type=Path, default=Path(".cache/decode"), help="folder for the encoded sets")
    flags = parser.parse_args()
    photos = sorted(flags.photos.glob("*.jpg"))
    if not photos:
        sys.exit(f"error: --photos: expected .jpg files, found none in {flags.photos}")
    peer = TensorFlow(flags.tensorflow) if flags.tensorflow else None
    report = []
    print(f"{'set':>10}{'kB':>6}{'path':>12}{'images/s':>10}{'spread':>8}{'ours is':>10}")
    for name, size in SETS.items():
        files = encode(photos, size)
        folder = flags.keep / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(files):
            (folder / f"{number:04}.jpg").write_bytes(file)
        times = measure(files, folder, flags.rounds, peer)
        speed = {path: len(files) / min(found) for path, found in times.items()}
        for path, found in times.items():
            row = {  # speeds in images/s of one core
                "set": name,
                "bytes": sum(map(len, files)) // len(files),
                "path": path,
                "images_per_second": speed[path],
                "spread": max(found) / min(found),
                "ours_is": speed["ours"] / speed[path],
            }
            print(
                f"{name:>10}{row['bytes'] / 1e3:>6.0f}{path:>12}{speed[path]:>10.0f}{row['spread']:>8.2f}"
                f"{row['ours_is']:>9.2f}x",
                flush=True,
            )
            report.append(row)
    print(json.dumps(report))


def measure(files: Files, folder: Path, rounds: int, peer: TensorFlow | None) -> dict[str, list[float]]:
    """Seconds of each round of each path; one round ahead warms up."""
    rng = np.random.default_rng(0)
    paths = {"ours": ours, "straight": straight, "raw": raw, "pillow": pillow}
    times: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(rounds + 1):
        for path, run in paths.items():
            start = time.perf_counter()
            run(files, rng)
            times[path].append(time.perf_counter() - start)
        for mode in ("full", "window") if peer else ():
            times.setdefault(f"tf {mode}", []).append(peer.seconds(mode, folder))
    return {path: found[1:] for path, found in times.items()}


if __name__ == "__main__":
    main()
