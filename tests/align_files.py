"""A tiny AlignModel in a folder as transformers writes it, with its processor; activations of order one."""

from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "red", "cat")
TEXTS = ["a red cat", "[SEP] émile sits there with another cat"]
RESIZE, CROP = 39, 35  # at 35 pixels Hugging Face's maps are 17, 8 and 4 wide, TensorFlow's 18, 9 and 5
TEMPERATURE = 0.06  # exp(log(0.06)) is another number in float32
TEXT = {
    "vocab_size": len(PIECES), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
VISION = {
    "width_coefficient": 0.5, "depth_coefficient": 1.0, "kernel_sizes": [3, 3, 5], "in_channels": [32, 16, 24],
    "out_channels": [16, 24, 80], "strides": [1, 2, 2], "num_block_repeats": [1, 2, 1], "expand_ratios": [1, 6, 6],
    "hidden_dim": 40,
}  # fmt: skip


def model(text: dict = TEXT, vision: dict = VISION, embedding: int = 40) -> transformers.AlignModel:
    """Random weights: with transformers' own they vanish in the tower, and the embeddings are NaN."""
    config = transformers.AlignConfig(
        text_config=text, vision_config=vision, projection_dim=embedding, temperature_init_value=TEMPERATURE
    )
    torch.manual_seed(0)
    found = transformers.AlignModel(config).eval()
    for layer in found.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.2)
            torch.nn.init.normal_(layer.bias)
    return found


def write(folder: Path, peer: transformers.AlignModel, *, resize: int = RESIZE, crop: int = CROP) -> Path:
    """What `save_pretrained` makes of the model and its processor."""
    peer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    processor = transformers.EfficientNetImageProcessorPil(
        size={"height": resize, "width": resize}, crop_size={"height": crop, "width": crop}, do_center_crop=True,
        resample=2, do_normalize=False, include_top=False, rescale_factor=1 / 127.5, rescale_offset=True,
    )  # fmt: skip
    tokenizer = transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), split_special_tokens=True)
    transformers.AlignProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def picture(path: Path) -> Path:
    """A JPEG that is not square, and so large that training would decode a part of it."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def embeddings(folder: Path, image: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(images, texts) f32 [n, D] by transformers, from raw files and texts, as its documentation shows."""
    peer, processor = (kind.from_pretrained(folder) for kind in (transformers.AlignModel, transformers.AutoProcessor))
    with Image.open(image) as opened:
        inputs = processor(images=[opened.convert("RGB")], text=texts, return_tensors="pt")
    with torch.no_grad():
        found = peer(**inputs)
    return found.image_embeds.numpy(), found.text_embeds.numpy()
