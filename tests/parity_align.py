"""ALIGN against transformers, in and out, as a markdown table: PYTHONPATH=. python tests/parity_align.py

Embeddings of a raw picture and raw texts, each library with its own preprocessing and tokenizer; random weights. The
architecture of kakaobrain/align-base (B7 and BERT-base at 289 pixels) takes a minute and 4 GB.
"""

import tempfile
from pathlib import Path

import align_files
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


def main() -> None:
    """Prints the table."""
    transformers.utils.logging.disable_progress_bar()
    print(HEAD)
    for name, (text, vision, embedding, resize, crop) in MODELS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            peer = align_files.model(text, vision, embedding)
            theirs = align_files.write(folder / "theirs", peer, resize=resize, crop=crop)
            for to, source in (("align_jax", theirs), ("huggingface", folder / "align_jax")):
                list(convert(str(source), folder / to, to=to))
            picture = align_files.picture(folder / "picture.png")
            model = align_jax.load(folder / "align_jax")
            ours = model.embed_images([picture]), model.embed_texts(align_files.TEXTS)
            for direction, where in (("in", theirs), ("out", folder / "huggingface")):
                pairs = zip(
                    ("image", "texts"), ours, align_files.embeddings(where, picture, align_files.TEXTS), strict=True
                )
                for what, found, expected in pairs:
                    print(f"| {name}, {crop} px | {direction}, {what} | {errors(found, expected)} |", flush=True)
            before, after = (load_file(path / "model.safetensors") for path in (theirs, folder / "huggingface"))
            same = sum(before[key].tobytes() == tensor.tobytes() for key, tensor in after.items())
            ignored = len(open_pretrained(theirs).ignored)
            print(f"| {name} | there and back | {same} of {len(before)} tensors bit-equal, {ignored} not used | | |")


if __name__ == "__main__":
    main()
