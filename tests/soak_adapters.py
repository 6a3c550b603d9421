"""Our models under the evaluators of sentence-transformers and the command line of clip-benchmark, both as they come.

launch/soak.sh adapters: importing the one takes ten seconds, the other wants torchvision, open_clip and
pycocoevalcap, which are empty packages here, since they have no part in what is run.
"""

import inspect
import io
import json
import os
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest
import sentence_transformers
import torch
from scipy.stats import spearmanr
from sentence_transformers import util
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from test_adapters import ENCODE, ROOT, TEXTS, records

import align_jax
from align_jax.adapters.sentence_transformers import SentenceEncoder

__all__ = ["records"]  # a fixture

STUB = """
import importlib.machinery
import sys
import types


class Empty(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("torchvision", "open_clip", "pycocoevalcap"):
            return importlib.machinery.ModuleSpec(name, Finder, is_package=True)

    @staticmethod
    def create_module(spec):
        return Empty(spec.name)

    @staticmethod
    def exec_module(module):
        pass


sys.meta_path.append(Finder)
"""


@pytest.fixture(scope="module")
def encoder(finished_run):
    """With drawn weights, since twelve steps leave texts so close that rounding would order them."""
    model, rng = align_jax.load(finished_run), np.random.default_rng(0)
    model.params = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32), model.params)
    return SentenceEncoder(model)


def test_the_recorded_signature_is_theirs():
    theirs = dict(inspect.signature(sentence_transformers.SentenceTransformer.encode).parameters)
    del theirs["self"], theirs["kwargs"]
    assert {name: parameter.default for name, parameter in theirs.items()} == ENCODE


def test_semantic_search(encoder, records):
    paths = [record["path"] for record in records]
    hits = util.semantic_search(encoder.encode(TEXTS), encoder.encode(paths), top_k=5)
    scores = encoder.model.similarity(paths, TEXTS).T
    for found, row in zip(hits, scores, strict=True):
        order = np.argsort(-row)[:5]
        assert [hit["corpus_id"] for hit in found] == order.tolist()
        np.testing.assert_allclose([hit["score"] for hit in found], row[order], atol=1e-5)
    np.testing.assert_allclose(util.cos_sim(encoder.encode(TEXTS), encoder.encode(paths)), scores, atol=1e-6)


def test_paraphrase_mining(encoder):
    texts = [*TEXTS, "a red cross", "blue line"]
    rows = encoder.encode(texts)
    best = max((float(rows[i] @ rows[j]), i, j) for i in range(5) for j in range(i))
    score, *pair = util.paraphrase_mining(encoder, texts)[0]
    assert sorted(pair) == sorted(best[1:]) and abs(score - best[0]) < 1e-5


def test_information_retrieval(encoder, records):
    """Texts that ask for the captions of other pictures: recall and reciprocal rank by hand."""
    queries = {str(place): record["texts"][0] for place, record in enumerate(records)}
    corpus = {str(place): record["texts"][1] for place, record in enumerate(records)}
    relevant = {place: {place} for place in queries}
    evaluator = InformationRetrievalEvaluator(
        queries, corpus, relevant, accuracy_at_k=[1, 5], mrr_at_k=[10], precision_recall_at_k=[5], name="captions",
        write_csv=False,
    )  # fmt: skip
    found = evaluator(encoder)
    scores = encoder.encode(list(queries.values())) @ encoder.encode(list(corpus.values())).T
    rank = (scores >= np.diag(scores)[:, None]).sum(1)
    assert found["captions_cosine_accuracy@1"] == pytest.approx((rank <= 1).mean())
    assert found["captions_cosine_recall@5"] == pytest.approx((rank <= 5).mean())
    assert found["captions_cosine_mrr@10"] == pytest.approx(np.where(rank <= 10, 1 / rank, 0).mean())
    assert encoder.model_card_data.metrics["captions"] == found


def test_embedding_similarity(encoder, records):
    one, other = [record["texts"][0] for record in records], [record["texts"][1] for record in reversed(records)]
    gold = np.random.default_rng(0).random(len(one)).tolist()
    found = EmbeddingSimilarityEvaluator(one, other, gold, name="sts", write_csv=False)(encoder)
    cosines = (encoder.encode(one) * encoder.encode(other)).sum(1)
    assert found["sts_spearman_cosine"] == pytest.approx(spearmanr(cosines, gold).statistic, abs=1e-6)


def test_the_command_line_of_clip_benchmark(finished_run, records, tmp_path):
    shards = tmp_path / "shapes" / "test"
    shards.mkdir(parents=True)
    (shards / "nshards.txt").write_text("1")
    (tmp_path / "shapes" / "dataset_type.txt").write_text("retrieval")
    with tarfile.open(shards / "0.tar", "w") as tar:
        for place, record in enumerate(records):
            for kind, data in (("png", record["path"].read_bytes()), ("txt", "\n".join(record["texts"]).encode())):
                member = tarfile.TarInfo(f"{place:04}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (tmp_path / "stubs").mkdir()
    (tmp_path / "stubs" / "sitecustomize.py").write_text(STUB)
    done = subprocess.run(
        [sys.executable, "-m", "align_jax.adapters.clip_benchmark", "eval", "--model_type=align_jax",
         f"--pretrained={finished_run}", "--dataset=wds/shapes", f"--dataset_root={tmp_path / 'shapes'}", "--no_amp",
         "--task=zeroshot_retrieval", f"--output={tmp_path / 'result.json'}", "--num_workers=0",
         "--batch_size=5", "--recall_k", "1", "5", "10"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path / 'stubs'}{os.pathsep}{ROOT}", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "result.json").read_text())["metrics"]
    measured = {row["name"]: row["value"] for row in json.loads((finished_run / "eval.json").read_text())}
    for k in (1, 5, 10):
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(measured[f"pairs/image_to_text/R@{k}"])
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(measured[f"pairs/text_to_image/R@{k}"])


def test_tensors_stay_tensors(encoder):
    rows = encoder.encode(TEXTS, convert_to_tensor=True)
    assert torch.allclose(encoder.similarity(rows, rows), util.cos_sim(rows, rows))
