"""Artefacts of an export: their sizes, and the latency of each beside the live model, all on the same threads.

Two models: the run of --workdir (the demo's, say), and EfficientNet-B0 with BERT-mini at 289 pixels and 64 pieces,
whose weights are random: neither size nor latency depends on them. Latencies are medians over rounds in which all
runtimes take turns.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from align_jax import files
from align_jax.data.text import SPECIAL
from align_jax.exporting import FORMATS, native, subject
from align_jax.exporting import onnx as onnx_format
from align_jax.exporting.subject import Rows, Subject
from align_jax.interop import own_folder
from align_jax.loading import locate, parts_of, weights_at
from align_jax.tasks import align

STORED = [("stablehlo", "float32"), ("stablehlo", "int8"), ("onnx", "float32"), ("onnx", "int8")]
SIZED = [("align_jax", kind) for kind in ("float32", "bfloat16", "int8")] + [("numpy", "float32"), *STORED]
BATCHES = (1, 8)
B0 = {
    "name": "align", "embedding": 320, "image": {"variant": "b0", "padding": "hf"}, "text": {"size": "mini"},
}  # fmt: skip
TINY = {
    **B0, "embedding": 24,
    "image": {"width": 0.25, "stages": ((1, 3, 1, 16), (1, 3, 6, 80)), "strides": (1, 2), "padding": "hf"},
    "text": {"size": "tiny", "layers": 1},
}  # fmt: skip


def random_model(folder: Path, *, small: bool) -> Path:
    """An export of the second model, with random weights."""
    task, crop, vocab = (TINY, 33, 99) if small else (B0, 289, 30_522)
    data = {"resize": crop + 4, "crop": crop, "text_length": 64, "vocab": {"size": vocab}}
    given = {key: value for key, value in task.items() if key != "name"}
    made = align.build(**given, image_size=crop, text_length=64, vocab_size=vocab)
    params, model_state = jax.jit(made.init)(jax.random.key(0), made.dummy_batch(1))
    config = own_folder.TRAINING | {"task": task, "data": own_folder.READING | data}
    folder.mkdir()
    files.write_json(folder / own_folder.CONFIG, config)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in (*SPECIAL, "a")))
    flat = subject.flat(params, model_state)
    native.save(flat, parts_of(folder), folder, step=None, kind="float32")
    return folder


def measured(runtimes: dict[str, Rows], batch: dict[str, np.ndarray], *, rounds: int) -> dict[str, float]:
    """Median milliseconds of each."""
    for call in runtimes.values():
        call(batch)
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(rounds):
        for name, call in runtimes.items():
            start = time.perf_counter()
            call(batch)
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def opened(made: Subject, format: str, folder: Path, *, threads: int) -> dict[str, Rows]:
    """What was written, on the threads that were asked for."""
    if format != "onnx":
        return dict(FORMATS[format].read(made, folder))
    paths = {name: folder / f"{name}{onnx_format.SUFFIX}" for name in made.functions}
    return {name: onnx_format.opened(path, threads=threads) for name, path in paths.items()}


def bench(title: str, workdir: Path, scratch: Path, *, rounds: int, threads: int) -> None:
    """Prints the two tables of one model."""
    place = locate(workdir)
    parts = parts_of(place.folder)
    with jax.set_mesh(parts.mesh):
        weights = weights_at(place, parts)
    print(f"\n{title}\n\n| format | weights | MB |\n|---|---|---:|", flush=True)
    live = subject.make(parts, weights)
    runtimes = {"live": live.rows(*jax.device_put((live.restored.params, live.restored.model_state)))}
    for format, kind in SIZED:
        made = subject.make(parts, weights, kind=kind, platforms=("cpu", "cuda", "tpu"), dtype=FORMATS[format].dtype)
        folder = scratch / f"{title}-{format}-{kind}".replace(" ", "_")
        FORMATS[format].write(made, folder)
        size = sum(path.stat().st_size for path in folder.iterdir() if path.name != own_folder.CONFIG)
        print(f"| {format} | {kind} | {size / 1e6:.2f} |", flush=True)
        print(json.dumps({"model": title, "format": format, "weights": kind, "bytes": size}), flush=True)
        if (format, kind) in STORED:
            runtimes[f"{format} {kind}"] = opened(made, format, folder, threads=threads)
    print(f"\n| ms, {threads} thread(s) | " + " | ".join(runtimes) + " |")
    print("|---|" + "---:|" * len(runtimes), flush=True)
    for name in live.functions:
        for size in BATCHES:
            batch = parts.task.dummy_batch(size)
            given = {key: np.asarray(batch[key]) for key in live.inputs(name)}
            found = measured({runtime: calls[name] for runtime, calls in runtimes.items()}, given, rounds=rounds)
            print(f"| {name}, batch {size} | " + " | ".join(f"{ms:.2f}" for ms in found.values()) + " |", flush=True)
            print(json.dumps({"model": title, "function": name, "batch": size, "ms": found}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="", help="a run or an export; by default the second model alone")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a tiny second model, to see that all is well")
    flags = parser.parse_args()
    # XLA takes as many threads as there are processors to run on, and counts them when it first computes.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.threads])
    options = {"rounds": flags.rounds, "threads": flags.threads}
    with tempfile.TemporaryDirectory() as scratch:
        if flags.workdir:
            bench(f"the run {Path(flags.workdir).name}", Path(flags.workdir), Path(scratch), **options)
        title = "tiny" if flags.small else "EfficientNet-B0 and BERT-mini"
        bench(title, random_model(Path(scratch) / "random", small=flags.small), Path(scratch), **options)


if __name__ == "__main__":
    main()
