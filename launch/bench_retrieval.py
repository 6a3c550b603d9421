"""Recall both ways: blockwise, against the whole matrix of scores and against clip_benchmark, in time and peak memory.

Random unit embeddings, five texts to an image, so that about every other text finds its image first. Three sizes: a
twenty-fifth, a fifth and all of --images and --texts. The ways that hold the whole matrix run up to --whole texts.
Each measurement is a process of its own; peak memory is that of the process, the embeddings included.
"""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np

AT = (1, 5, 10)
NOISE = 5.0  # length of what stands beside a text's image in a text
BATCH = 64  # queries that clip_benchmark takes at a time: its default
ROWS = 10_000  # embeddings that are drawn at a time


def embeddings(images: int, texts: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images [n, D], texts [m, D], image of each text [m]), unit rows f32."""
    rng = np.random.default_rng(0)
    owners = np.arange(texts) * images // texts
    rows = np.empty((images, width), np.float32), np.empty((texts, width), np.float32)
    for start in range(0, images, ROWS):
        part = rng.standard_normal((min(ROWS, images - start), width), np.float32)
        rows[0][start : start + ROWS] = part / np.linalg.norm(part, axis=1, keepdims=True)
    for start in range(0, texts, ROWS):
        own = rows[0][owners[start : start + ROWS]]
        part = own + NOISE / width**0.5 * rng.standard_normal(own.shape, np.float32)
        rows[1][start : start + ROWS] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return *rows, owners


def blockwise(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> list[float]:
    """Ours."""
    from align_jax import sharding
    from align_jax.evals.ranking import ranks

    right = np.stack([owners, np.arange(len(texts))], axis=1)
    found = ranks(sharding.make_mesh(), images, texts, right)
    return [float((way < k).mean()) for way in found for k in AT]


def whole_matrix(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> list[float]:
    """All scores, all of them sorted, both ways."""
    scores = images @ texts.T
    found = []
    for matrix, right in (
        (scores, lambda order: owners[order] == np.arange(len(images))[:, None]),
        (scores.T, lambda order: order == owners[:, None]),
    ):
        hit = right(np.argsort(-matrix, axis=1))
        found += [float(hit[:, :k].any(axis=1).mean()) for k in AT]
    return found


def clip_benchmark(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> list[float]:
    """As its zero-shot retrieval calls its functions."""
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    scores = torch.from_numpy(texts) @ torch.from_numpy(images).t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(owners)] = True
    return [
        (batchify(recall_at_k, *way, BATCH, "cpu", k=k) > 0).float().mean().item()
        for way in ((scores.T, positive.T), (scores, positive))
        for k in AT
    ]


# Way -> (function, what it imports: that takes no part in the time, compilation does).
WAYS = {
    "blockwise": (blockwise, "align_jax.evals.ranking"),
    "whole_matrix": (whole_matrix, "numpy"),
    "clip_benchmark": (clip_benchmark, "clip_benchmark.metrics.zeroshot_retrieval"),
}


def measure(way: str, images: int, texts: int, width: int) -> dict[str, object]:
    """In this process: seconds, megabytes at the peak and the six recalls."""
    function, module = WAYS[way]
    importlib.import_module(module)
    given = embeddings(images, texts, width)
    start = time.perf_counter()
    recalls = function(*given)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak / 1e3, "recalls": recalls}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=640, help="of the embeddings")
    parser.add_argument("--whole", type=int, default=20_000, help="the largest number of texts for the other ways")
    parser.add_argument("--against", nargs="*", choices=list(WAYS)[1:], default=list(WAYS)[1:], help="the other ways")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the process of one measurement
    flags = parser.parse_args()
    if flags.measure:
        print(json.dumps(measure(flags.measure, flags.images, flags.texts, flags.width)))
        return
    report: list[dict[str, object]] = []
    pace: dict[str, float] = {}  # seconds per score, at the size before
    print(f"{'images':>8}{'texts':>8}  {'way':<16}{'seconds':>9}{'peak MB':>9}{'time/ours':>11}{'memory/ours':>13}")
    for share in (25, 5, 1):
        images, texts = flags.images // share, flags.texts // share
        ours: dict[str, float] = {}
        for way in ("blockwise", *(flags.against if texts <= flags.whole else ())):
            if way in pace:
                minutes = pace[way] * images * texts / 60
                print(f"{images} x {texts}, {way}: about {minutes:.1f} minutes", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, f"--images={images}", f"--texts={texts}", f"--width={flags.width}",
                       f"--measure={way}"]  # fmt: skip
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            ours = ours or found
            pace[way] = found["seconds"] / (images * texts)
            line = f"{images:>8}{texts:>8}  {way:<16}{found['seconds']:>9.1f}{found['peak_mb']:>9.0f}"
            line += f"{found['seconds'] / ours['seconds']:>11.2f}{found['peak_mb'] / ours['peak_mb']:>13.2f}"
            print(line, flush=True)
            if not np.allclose(found["recalls"], ours["recalls"], atol=2e-4):  # but for nearly equal scores
                sys.exit(f"error: {way} finds {found['recalls']}, blockwise {ours['recalls']}")
            report.append({"images": images, "texts": texts, "way": way} | found)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
