"""A training step of a model of the demo's size against transformers' AlignModel with torch's optimizer: same threads.

Forward, backward and AdamW in train mode, float32, one batch over and over. Both run in this process, in turn; the
fastest of the rounds counts, in wall time, and the slowest shows the spread.
"""

import argparse
import json
import os
import time

os.environ["JAX_PLATFORMS"] = "cpu"
# As launch/demo.sh does: a device for each core, on which the batch is split.
os.environ["JAX_NUM_CPU_DEVICES"] = str(os.cpu_count())

import jax
import numpy as np
import torch
import transformers

from align_jax import optim, sharding, train
from align_jax import state as states
from align_jax.tasks import align

THREADS = os.cpu_count() or 1
STAGES = ((1, 3, 2, 48), (2, 3, 3, 96), (3, 3, 3, 192))  # of configs/align_demo.py
STRIDES = (2, 1, 2)
FEATURES, SIDE, LENGTH, VOCABULARY = 192, 40, 16, 3000
TARGET = 0.8


def ours(rows: int):
    """One step of the trainer, as the loop calls it."""
    task = align.build(
        image={"stages": STAGES, "strides": STRIDES, "stochastic_depth": 0.0, "padding": "hf",
               "bn_group_size": rows // THREADS},
        text={"size": "tiny"}, embedding=FEATURES, temperature=0.07,
        image_size=SIDE, text_length=LENGTH, vocab_size=VOCABULARY,
    )  # fmt: skip
    optimizer = optim.make(name="adamw", steps=1000, learning_rate=1e-4, warmup=0, schedule="constant")
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        batch = sharding.place(mesh, task.dummy_batch(rows))
        held = [states.create(task, optimizer, task.dummy_batch(1), seed=0, mesh=mesh)]
        compiled = train.jitted(task, optimizer, held[0], mesh)
    size = sum(x.size for x in jax.tree.leaves(held[0].params))

    def step():
        with jax.set_mesh(mesh):
            held[0], metrics, _ = compiled(held[0], batch)
            jax.block_until_ready(metrics)

    return step, size


def theirs(rows: int):
    """The same for AlignModel; its loss is half of the paper's, which AdamW does not notice."""
    repeats, kernels, expansions, filters = (list(column) for column in zip(*STAGES, strict=True))
    vision = {
        "width_coefficient": 1.0, "depth_coefficient": 1.0, "drop_connect_rate": 0.0, "strides": list(STRIDES),
        "num_block_repeats": repeats, "kernel_sizes": kernels, "expand_ratios": expansions, "out_channels": filters,
        "in_channels": [32, *filters[:-1]], "depthwise_padding": [],
    }  # fmt: skip
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 512,
    }  # fmt: skip
    config = transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=FEATURES)
    model = transformers.AlignModel(config).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rng = np.random.default_rng(0)
    pixels = torch.tensor(rng.normal(size=(rows, 3, SIDE, SIDE)).astype(np.float32)).to(
        memory_format=torch.channels_last
    )
    ids = torch.tensor(rng.integers(0, VOCABULARY, (rows, LENGTH)))
    mask = torch.ones_like(ids)

    def step():
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, pixel_values=pixels, return_loss=True).loss.backward()
        optimizer.step()

    return step, sum(x.numel() for x in model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    flags = parser.parse_args()
    torch.set_num_threads(THREADS)
    (own, size), (peer, other) = ours(flags.batch), theirs(flags.batch)
    times: dict[str, list[float]] = {"jax": [], "torch": []}
    for index in range(flags.rounds + 2):  # two to warm up
        for name, step in (("torch", peer), ("jax", own)):
            start = time.perf_counter()
            step()
            if index > 1:
                times[name].append(time.perf_counter() - start)
    ratio = min(times["jax"]) / min(times["torch"])
    print(f"batch {flags.batch}, {SIDE} px, {THREADS} threads; parameters: jax {size:,}, torch {other:,}")
    for name, found in times.items():
        print(f"{name:6} {1e3 * min(found):7.0f} ms, slowest of {flags.rounds}: {1e3 * max(found):.0f} ms")
    print(f"ratio {ratio:.2f}, target {TARGET}")
    print(json.dumps({"batch": flags.batch, "threads": THREADS, "ratio": ratio, "seconds": times}))


if __name__ == "__main__":
    main()
