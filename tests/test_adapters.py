"""Models of ours as other libraries call theirs: against clip-benchmark, and in soak_adapters sentence-transformers."""

import ast
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image

import align_jax
from align_jax import AlignError
from align_jax.adapters import clip_benchmark
from align_jax.adapters.sentence_transformers import SentenceEncoder

ROOT = Path(__file__).parent.parent
TEXTS = ["red cross", "a line in blue", "an orange ellipse"]

# SentenceTransformer.encode of sentence-transformers 6.2.0, whose import takes seconds; soak_adapters compares them.
ENCODE = {
    "inputs": inspect.Parameter.empty, "prompt_name": None, "prompt": None, "batch_size": 32,
    "show_progress_bar": None, "output_value": "sentence_embedding", "precision": "float32", "convert_to_numpy": True,
    "convert_to_tensor": False, "device": None, "normalize_embeddings": False, "truncate_dim": None, "pool": None,
    "chunk_size": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run)


@pytest.fixture(scope="module")
def records(finished_run):
    lines = (finished_run.parent / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line) | {"path": finished_run.parent / json.loads(line)["image"]} for line in lines]


@pytest.fixture(scope="module")
def measured(finished_run):
    """What the run's own evaluators found."""
    return {row["name"]: row["value"] for row in json.loads((finished_run / "eval.json").read_text())}


class Pictures(torch.utils.data.Dataset):
    """As torchvision's: opened pictures through a transform, and a target each."""

    def __init__(self, records, transform, targets):
        self.paths, self.transform, self.targets = [record["path"] for record in records], transform, targets

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.transform(Image.open(self.paths[index])), self.targets[index]


def test_retrieval_of_clip_benchmark_is_ours(model, records, measured):
    clip, transform, tokenizer = clip_benchmark.load(model)
    data = Pictures(records, transform, [record["texts"] for record in records])

    def together(rows):
        return torch.stack([image for image, _ in rows]), [texts for _, texts in rows]

    loader = torch.utils.data.DataLoader(data, batch_size=5, collate_fn=together)
    found = zeroshot_retrieval.evaluate(clip, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    assert found == pytest.approx({
        f"{theirs}_retrieval_recall@{k}": measured[f"pairs/{ours}/R@{k}"]
        for theirs, ours in (("text", "image_to_text"), ("image", "text_to_image")) for k in (1, 5, 10)
    })  # fmt: skip
    assert len(set(found.values())) > 2, "or nothing was compared"


def test_classification_of_clip_benchmark_is_ours(model, records, measured):
    clip, transform, tokenizer = clip_benchmark.load(model)
    classes = ["blue", "green", "orange", "red"]
    data = Pictures(records, transform, [classes.index(record["label"]) for record in records])
    loader = torch.utils.data.DataLoader(data, batch_size=5)
    templates = ["a {c} thing", "{c}"]
    weights = zeroshot_classification.zero_shot_classifier(clip, tokenizer, classes, templates, "cpu", amp=False)
    ours = model.zero_shot(classes, templates)
    np.testing.assert_allclose(weights.numpy(), ours.weights.T, atol=1e-6)
    logits, target = zeroshot_classification.run_classification(clip, weights, loader, "cpu", amp=False)
    np.testing.assert_allclose(logits / 100, ours.scores([record["path"] for record in records]), atol=1e-6)
    assert (logits.argmax(1) == target).float().mean().item() == measured["colours/top1"]


def test_what_clip_benchmark_hands_over(model, records):
    clip, transform, tokenizer = clip_benchmark.load(model)
    assert clip.eval() is clip
    squares = torch.stack([transform(Image.open(record["path"])) for record in records[:3]])
    assert squares.shape == (3, 3, 32, 32) and squares.dtype == torch.uint8
    with torch.autocast("cpu"):
        images, texts = clip.encode_image(squares), clip.encode_text(tokenizer(TEXTS))
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images, model.embed_images([record["path"] for record in records[:3]]))
    np.testing.assert_array_equal(texts, model.embed_texts(TEXTS))
    as_arrays = clip.encode_image(squares.numpy())
    assert isinstance(as_arrays, np.ndarray)
    np.testing.assert_array_equal(as_arrays, images)
    with pytest.raises(AlignError, match=r"expected uint8 \[B, 3, 32, 32\] .*, found float32 \[3, 3, 32, 32\]"):
        clip.encode_image(squares.float())
    with pytest.raises(AlignError, match=r"expected int64 \[B, 8\] .*, found int64 \[3, 7\]"):
        clip.encode_text(tokenizer(TEXTS)[:, 1:])


def test_the_loader_is_that_of_its_command_line(finished_run):
    """By keywords, from a path, and with a transform that the workers of a loader can have without jax."""
    clip, transform, _ = clip_benchmark.load(
        model_name="any", pretrained=str(finished_run / "export"), cache_dir=None, device="cpu"
    )
    assert clip.model.embedding_size == 16
    assert transform(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); assert not {'jax', 'torch'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(transform), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_classifier_is_no_clip(model, monkeypatch):
    monkeypatch.setattr(model, "functions", ("classify_images", "embed_images"))
    with pytest.raises(AlignError, match="expected a model of images and texts, found one without embed_texts"):
        clip_benchmark.load(model)


def test_encode_takes_and_gives_what_a_sentence_transformer_does(model, records):
    encoder = SentenceEncoder(model)
    texts, paths = model.embed_texts(TEXTS), [record["path"] for record in records[:3]]
    images = model.embed_images(paths)
    for given in (TEXTS, tuple(TEXTS), np.array(TEXTS), [{"text": text} for text in TEXTS]):
        np.testing.assert_array_equal(encoder.encode(given), texts)
    for given in (paths, [Image.open(path) for path in paths], [{"image": str(path)} for path in paths]):
        np.testing.assert_array_equal(encoder.encode(given), images)
    mixed = encoder.encode([paths[0], TEXTS[1], {"image": paths[2]}], batch_size=2, show_progress_bar=False)
    np.testing.assert_allclose(mixed, np.stack([images[0], texts[1], images[2]]), atol=1e-6)
    assert encoder.encode(TEXTS[0]).shape == encoder.encode(paths[0]).shape == (16,)
    assert encoder.encode([]).shape == encoder.encode([], convert_to_tensor=True).shape == (0,)
    assert torch.equal(encoder.encode(TEXTS, convert_to_tensor=True), torch.from_numpy(texts))
    assert encoder.encode(TEXTS[0], convert_to_numpy=False).shape == (16,)
    several = encoder.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(several, list) and torch.equal(torch.stack(several), torch.from_numpy(texts))
    np.testing.assert_array_equal(encoder.encode(TEXTS, truncate_dim=5), texts[:, :5])
    short = encoder.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    np.testing.assert_allclose(short, texts[:, :5] / np.linalg.norm(texts[:, :5], axis=1, keepdims=True), atol=1e-6)


def test_encode_refuses_what_it_has_not(model):
    encoder = SentenceEncoder(model, prompts={"query": "a "})
    np.testing.assert_array_equal(encoder.encode_query("red"), encoder.encode("a red"))
    np.testing.assert_array_equal(encoder.encode_query("red", prompt=""), encoder.encode_document("red"))
    np.testing.assert_array_equal(encoder.encode("red", "query"), encoder.encode("red", prompt="a "))
    for options, error in (
        ({"prompt_name": "passage"}, r"prompt_name: expected one of \['query'\], found 'passage'"),
        ({"precision": "int8"}, "expected precision='float32', .* found 'int8'"),
        ({"output_value": "token_embeddings"}, "expected output_value='sentence_embedding'"),
    ):
        with pytest.raises(AlignError, match=error):
            encoder.encode("red", **options)
    with pytest.raises(AlignError, match=r"image 1: expected a path, .* found int"):
        encoder.encode(["red", 3])
    with pytest.raises(AlignError, match=r"input 0: expected .* found keys \['audio'\]"):
        encoder.encode({"audio": "a.wav"})


def test_the_shape_of_a_sentence_transformer(model):
    encoder = SentenceEncoder(model)
    found = inspect.signature(encoder.encode).parameters
    assert {name: parameter.default for name, parameter in found.items()} == ENCODE and list(found) == list(ENCODE)
    assert encoder.get_sentence_embedding_dimension() == encoder.get_embedding_dimension() == 16
    assert encoder.max_seq_length == encoder.get_max_seq_length() == 8
    rows = encoder.encode(TEXTS)
    np.testing.assert_allclose(encoder.similarity(rows[0], 2 * rows), rows[:1] @ rows.T, atol=1e-6)
    np.testing.assert_allclose(encoder.similarity_pairwise(rows, rows[::-1]), (rows * rows[::-1]).sum(1), atol=1e-6)


def test_without_pytorch_one_line(model, monkeypatch):
    encoder = SentenceEncoder(model)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert encoder.encode("red").shape == (16,), "arrays need none"
    with pytest.raises(AlignError, match=r"expected PyTorch, .* pip install torch"):
        encoder.encode("red", convert_to_tensor=True)


def test_libraries_are_imported_where_they_are_used():
    """An import of an adapter needs none of them."""
    for path in Path(clip_benchmark.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not {name.split(".")[0] for name in names} & {"torch", "clip_benchmark", "sentence_transformers"}
