"""ALIGN against transformers, in and out, as a markdown table: PYTHONPATH=. python tests/parity_align.py

Embeddings of a raw picture and raw texts, each library with its own preprocessing and tokenizer; random weights. The
architecture of kakaobrain/align-base (B7 and BERT-base at 289 pixels) takes a minute and 4 GB.
"""

import tempfile
from pathlib import Path

import align_files
import torch
import transformers
from closeness import HEAD, errors
from safetensors.numpy import load_file

import align_jax
from align_jax.convert import convert
from align_jax.interop.source import open_pretrained

BASE = {"vocab_size": len(align_files.PIECES)}  # the rest is BERT-base, as the default configs are align-base's
MODELS = {  # text, vision, embedding, resize, crop
    "tiny AlignModel": (align_files.TEXT, align_files.VISION, 40, 39, 35),
    "tiny AlignModel, even side": (align_files.TEXT, align_files.VISION, 40, 36, 32),
    "AlignModel, B7 + BERT-base": (BASE, {"hidden_dim": 640}, 640, 346, 289),
}


def settle(peer: transformers.AlignModel, side: int) -> None:
    """As in trained towers, what a block adds is small beside what passes it, and BatchNorm knows what it meets.

    With drawn statistics the 55 blocks of B7 multiply any rounding: torch in f32 is then as far from torch in f64. New
    statistics count for 0.99 there.
    """
    vision = peer.vision_model.train()
    with torch.no_grad():
        for name, layer in vision.named_modules():
            if name.endswith("project_bn"):
                layer.weight *= 0.2
        vision(torch.rand(8, 3, side, side) * 2 - 1)
    vision.eval()


def compare(name: str, first: Path, second: Path, picture: Path) -> None:
    """Prints how close ours is to both folders of transformers: the source, and what was written of it."""
    model = align_jax.load(first.parent / "align_jax")
    ours = model.embed_images([picture]), model.embed_texts(align_files.TEXTS)
    for direction, where in (("in", first), ("out", second)):
        theirs = align_files.embeddings(where, picture, align_files.TEXTS)
        for what, found, expected in zip(("image", "texts"), ours, theirs, strict=True):
            print(f"| {name} | {direction}, {what} | {errors(found, expected)} |", flush=True)
    before, after = (load_file(path / "model.safetensors") for path in (first, second))
    same = sum(before[key].tobytes() == tensor.tobytes() for key, tensor in after.items())
    ignored = len(open_pretrained(first).ignored)
    print(f"| {name} | there and back | {same} of {len(before)} tensors bit-equal, {ignored} not used | | |")


def main() -> None:
    """Prints the table."""
    transformers.utils.logging.disable_progress_bar()
    print(HEAD)
    for name, (text, vision, embedding, resize, crop) in MODELS.items():
        peer = align_files.model(text, vision, embedding)
        settle(peer, crop)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            theirs = align_files.write(folder / "theirs", peer, resize=resize, crop=crop)
            for to, source in (("align_jax", theirs), ("huggingface", folder / "align_jax")):
                list(convert(str(source), folder / to, to=to))
            compare(f"{name}, {crop} px", theirs, folder / "huggingface", align_files.picture(folder / "picture.png"))


if __name__ == "__main__":
    main()
