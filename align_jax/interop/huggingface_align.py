"""ALIGN weights from Hugging Face's tensor names (transformers AlignModel, such as kakaobrain/align-base)."""

from collections.abc import Mapping

import numpy as np

from align_jax.interop import efficientnet, huggingface_bert, huggingface_efficientnet, names
from align_jax.interop.accounts import Tensors
from align_jax.models.bert import Bert
from align_jax.models.dual_encoder import DualEncoder
from align_jax.models.efficientnet import EfficientNet
from align_jax.types import AlignError, ModelState, Params

OWN = {"temperature", "text_projection.weight", "text_projection.bias"}


def from_torch_state(state: Mapping[str, np.ndarray], module: DualEncoder) -> tuple[Params, ModelState]:
    """(params, the collection `batch_stats`) of `module`.

    AlignError, by name, for a missing, unknown or misshapen tensor.
    """
    image_tower, text_tower = module.image_tower, module.text_tower
    if module.image_projection or not isinstance(image_tower, EfficientNet) or not isinstance(text_tower, Bert):
        raise AlignError("Hugging Face ALIGN: expected EfficientNet and Bert without image_projection, found others")
    own = {name for name in state if not name.startswith(("text_model.", "vision_model."))}
    if own != OWN:
        raise AlignError(f"ALIGN tensors: missing {sorted(OWN - own)}, unknown {sorted(own - OWN)}")
    temperature = np.asarray(state["temperature"])
    kernel = np.asarray(state["text_projection.weight"]).T  # torch stores [out, in]
    if kernel.shape != (text_tower.width, module.embedding):
        raise AlignError(
            f"ALIGN tensor text_projection.weight: expected {(module.embedding, text_tower.width)}, "
            f"found {kernel.shape[::-1]}"
        )
    if temperature <= 0:
        raise AlignError(f"ALIGN tensor temperature: expected a number above 0, found {temperature}")
    huggingface_efficientnet.check(image_tower)
    vision = Tensors({name: x for name, x in state.items() if name.startswith("vision_model.")}, "ALIGN")
    tower = names.read(
        vision, huggingface_efficientnet.entries(image_tower, "vision_model."), efficientnet.shapes(image_tower)
    )
    vision.ignore(efficientnet.COUNTERS)
    vision.close()
    params = {
        "image_tower": tower["params"],
        "text_tower": huggingface_bert.from_torch_state(state, text_tower, "text_model."),
        "text_projection": {
            "kernel": kernel.astype(module.param_dtype),
            "bias": np.asarray(state["text_projection.bias"], module.param_dtype),
        },
        "log_temperature": np.log(temperature, dtype=module.param_dtype),
    }
    return params, {"image_tower": tower["batch_stats"]}
