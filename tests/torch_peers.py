"""Models of torch to compare with: weights that say something, and their tensors."""

import numpy as np
import torch


def randomise(model: torch.nn.Module) -> None:
    """Weights that keep activations of order one: transformers' own, of std 0.02, vanish within a few blocks."""
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor, low, high):
        return torch.nn.init.uniform_(tensor, low, high, generator=generator)

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                uniform(layer.bias, -1, 1)
        if isinstance(layer, torch.nn.BatchNorm2d):
            uniform(layer.weight, 0.5, 1.5)
            uniform(layer.bias, -0.5, 0.5)
            uniform(layer.running_mean, -0.5, 0.5)
            uniform(layer.running_var, 0.5, 2)


def numpy_state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
