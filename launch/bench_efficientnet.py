"""EfficientNet-B0 on one CPU thread against Hugging Face's torch model: forward and backward in train mode, float32.

Both run in this process, in turn, and the best of N counts, in process CPU time: so a busy machine disturbs the ratio
little. Example: launch/bench.sh efficientnet --rounds=10
"""

import argparse
import os
import time

# Before jax is imported: one thread for XLA, as for torch.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from align_jax.models.efficientnet import EfficientNet

TARGETS = {64: 1.2, 128: 1.6}  # pixels -> CPU time, torch's = 1


def ours(pixels: np.ndarray, backward: bool):
    """A function that runs one step; the model keeps the 1x1 head convolution, as Hugging Face's does."""
    module = EfficientNet(head_conv=True, bn_group_size=None)
    variables = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))()

    def loss(params, pixels):
        features, state = module.apply({**variables, "params": params}, pixels, train=True, mutable="batch_stats")
        return features.sum(), state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True) if backward else loss)
    return lambda: jax.block_until_ready(step(variables["params"], pixels))


def torchs(pixels: np.ndarray, backward: bool):
    """The same for transformers' EfficientNetModel, in its faster memory format."""
    config = transformers.EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, drop_connect_rate=0.0
    )
    model = transformers.EfficientNetModel(config)
    model = model.train().to(memory_format=torch.channels_last)
    images = torch.tensor(pixels).permute(0, 3, 1, 2)

    def step():
        with torch.set_grad_enabled(backward):
            loss = model(images).pooler_output.sum()
        if backward:
            model.zero_grad()
            loss.backward()

    return step


def best_of(rounds: int, *steps) -> list[float]:
    """Milliseconds of CPU time of each step, the best of `rounds`, after one warm-up."""
    best = [float("inf")] * len(steps)
    for index in range(rounds + 1):
        for place, step in enumerate(steps):
            start = time.process_time()
            step()
            if index:
                best[place] = min(best[place], 1e3 * (time.process_time() - start))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="steps of each, of which the fastest counts")
    parser.add_argument("--batch", type=int, default=32)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    print(f"EfficientNet-B0, batch {flags.batch}, train mode, float32, 1 thread, best of {flags.rounds}, CPU time")
    print(f"{'':24}{'torch':>10}{'jax':>10}{'ratio':>8}{'target':>8}")
    for size, target in TARGETS.items():
        pixels = np.random.default_rng(0).normal(size=(flags.batch, size, size, 3)).astype(np.float32)
        for backward in (False, True):
            peer, own = best_of(flags.rounds, torchs(pixels, backward), ours(pixels, backward))
            name = f"{size} px forward" + "+backward" * backward
            goal = f"{target:8.2f}" if backward else ""
            print(f"{name:24}{peer:7.0f} ms{own:7.0f} ms{own / peer:8.2f}{goal}", flush=True)


if __name__ == "__main__":
    main()
