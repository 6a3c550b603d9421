"""How near AlignModel and ours are, from raw files and texts, in both directions: a table in Markdown.

    .venv/bin/python tests/parity_align.py [--full]

`--full` adds the size of kakaobrain/align-base (EfficientNet-B7, BERT-base), which takes minutes.
"""

import importlib.util
import logging
import sys
import tempfile
from pathlib import Path

import align_files
import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

import align_jax
from align_jax.convert import convert
from align_jax.models.bert import SIZES
from align_jax.models.efficientnet_scaling import VARIANTS, round_filters

TEXTS = ["a red cat", "the photo of a small bird on a wire, seen from below", "xyz"]


def pictures(folder: Path) -> list[Path]:
    """Photographs that are decoded whole, and one as large as a camera's, which we decode at a part of its size."""
    package = importlib.util.find_spec("foolbox")
    assert package and package.origin, "expected photographs: pip install --no-deps foolbox==3.3.4"
    found = sorted((Path(package.origin).parent / "data").glob("imagenet_*"))[:4]
    with Image.open(found[0]) as photo:
        photo.convert("RGB").resize((2000, 1500), Image.Resampling.BICUBIC).save(folder / "large.jpg", quality=92)
    return [*found, folder / "large.jpg"]


def peer(variant: str, size: str):
    """An AlignModel of random weights in published sizes."""
    scaling, tower = VARIANTS[variant], SIZES[size]
    text = {
        "vocab_size": len(align_files.PIECES), "hidden_size": tower["width"], "num_hidden_layers": tower["layers"],
        "num_attention_heads": tower["heads"], "intermediate_size": tower["mlp_width"],
    }  # fmt: skip
    vision = {"width_coefficient": scaling.width, "depth_coefficient": scaling.depth}
    return align_files.model(text, vision, round_filters(320 * scaling.width))


def settled(model, images: list[Path]):
    """The same with the statistics of these pictures in its BatchNorm.

    With any others a random tower of B7's depth is chaotic: torch in float32 and in float64 differ at a cosine of 0.67.
    """
    squares = [np.asarray(Image.open(image).convert("RGB").resize((289, 289))) for image in images]
    for layer in model.vision_model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.vision_model.train()(torch.tensor(np.stack(squares)).permute(0, 3, 1, 2) / 127.5 - 1)
    return model.eval()


def compare(name: str, folder: Path, model, resize: int, crop: int, images: list[Path]) -> None:
    theirs = align_files.write(folder / "theirs", model, resize=resize, crop=crop)
    list(convert(str(theirs), folder / "ours"))
    list(convert(str(folder / "ours"), folder / "again", to="huggingface"))
    ours = align_jax.load(folder / "ours")
    for direction, source in (("from Hugging Face", theirs), ("to Hugging Face", folder / "again")):
        for kind, group in (("photos", images[:-1]), ("a large JPEG", images[-1:])):
            rows, texts = zip(*(align_files.embeddings(source, image, TEXTS) for image in group), strict=True)
            show(f"{name}, {kind}", direction, ours.embed_images(group), np.concatenate(rows))
        show(f"{name}, texts", direction, ours.embed_texts(TEXTS), texts[0])
    before, after = (load_file(path / "model.safetensors") for path in (theirs, folder / "again"))
    same = before.keys() == after.keys() and all(before[key].tobytes() == after[key].tobytes() for key in before)
    print(f"| {name}, {len(before)} tensors | there and back | {'equal bits' if same else 'OTHER BITS'} | | |")


def show(name: str, direction: str, found: np.ndarray, expected: np.ndarray) -> None:
    error = np.abs(found - expected).max()
    cosine = (found * expected).sum(1, dtype=np.float64).min()
    print(f"| {name} | {direction} | {error:.1e} | {error / np.abs(expected).max():.1e} | {cosine:.7f} |", flush=True)


def main() -> None:
    """Prints the table, row by row."""
    logging.disable(logging.WARNING)
    print("| model | direction | max abs error | max relative error | least cosine |\n|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = pictures(folder)
        compare("tiny, 35 px", folder / "tiny", align_files.model(), align_files.RESIZE, align_files.CROP, images)
        compare("B0 + BERT-mini, 289 px", folder / "b0", settled(peer("b0", "mini"), images), 346, 289, images)
        if "--full" in sys.argv:
            compare("B7 + BERT-base, 289 px", folder / "b7", settled(peer("b7", "base"), images), 346, 289, images)


if __name__ == "__main__":
    main()
