"""Linear probes against scikit-learn and torch."""

import inspect
import runpy
from pathlib import Path

import labelled_images
import numpy as np
import pytest
import torch
from labelled_images import FUNCTIONS, PARAMS, embedder, evaluator, results, rows_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from align_jax import evals, sharding
from align_jax.data.manifest import Manifest
from align_jax.data.tfds import TfdsPairs
from align_jax.evals import logistic, logistic_sgd, panels
from align_jax.evals.linear_probe import held_out
from align_jax.evals.logistic import Regression, predict
from align_jax.evals.statistics import interval
from align_jax.types import AlignError

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return labelled_images.write(tmp_path_factory.mktemp("train") / "data", 210, classes=CLASSES, broken=(7,))


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return labelled_images.write(tmp_path_factory.mktemp("asked") / "data", 119, seed=1, classes=CLASSES, broken=(3,))


def section(asked, train, **options):
    return {"kind": "linear_probe", "source": asked, "train": train, **options}


def lbfgs(**options):
    return {"solver": {"name": "lbfgs", **options}}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks on each device, the last with rows to spare."""
    monkeypatch.setattr(logistic, "BLOCK", 32)


def blobs(count=209):
    """Of the shape of the features of `train`, so that they share a compilation."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 7
    rows = (rng.normal(size=(7, 10))[labels] + 1.5 * rng.normal(size=(count, 10))).astype(np.float32)
    return rows, labels


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("devices", [1, 8])
def test_lbfgs_finds_the_model_of_scikit_learn(devices):
    mesh = sharding.make_mesh(devices=devices)
    rows, labels = blobs()
    used = np.arange(len(rows)) < 180
    regression = Regression(mesh, rows, labels, 7)
    for l2 in (100.0, 1.0, 0.01):
        fitted = regression.fit(used, l2, tolerance=1e-6, most=1000)
        peer = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=10_000).fit(rows[used].astype(np.float64), labels[used])
        assert fitted.gradient <= 1e-6 and 0 < fitted.steps < 100
        np.testing.assert_allclose(fitted.model.weights.T, peer.coef_, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(fitted.model.bias, peer.intercept_, rtol=1e-4, atol=1e-4)
        found = softmax(rows @ fitted.model.weights + fitted.model.bias)
        np.testing.assert_allclose(found, peer.predict_proba(rows), atol=2e-5)
        assert (predict(mesh, fitted.model, rows, 1)[:, 0] == peer.predict(rows)).all()


@pytest.mark.parametrize("absent", [0, 3])
def test_a_class_without_examples_is_never_guessed_and_changes_nothing(absent):
    mesh = sharding.make_mesh(devices=1)
    rows, labels = blobs()
    used = labels != absent
    model = Regression(mesh, rows, labels, 7).fit(used, 1.0, tolerance=1e-6, most=500).model
    peer = LogisticRegression(tol=1e-9, max_iter=1000).fit(rows[used].astype(np.float64), labels[used])
    np.testing.assert_allclose(np.delete(model.weights, absent, axis=1).T, peer.coef_, atol=1e-4)
    assert np.isneginf(model.bias[absent]) and not model.weights[:, absent].any()
    assert set(np.unique(predict(mesh, model, rows, 6))) == set(range(7)) - {absent}


@pytest.mark.parametrize("devices", [1, 8])
def test_sgd_takes_the_steps_of_torch(devices, monkeypatch):
    monkeypatch.setattr(logistic_sgd, "STEPS", 2)
    rows, labels = blobs(50)
    options = {"learning_rate": 0.1, "momentum": 0.9, "batch_size": 12, "epochs": 5, "decay": 0.2, "every": 2}
    found = logistic_sgd.fit(sharding.make_mesh(devices=devices), rows, labels, 7, seed=3, **options)
    head = torch.nn.Linear(10, 7)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.2)
    rng = np.random.default_rng(3)
    for _ in range(5):
        for batch in torch.from_numpy(rng.permutation(50)).split(12):
            optimizer.zero_grad()
            logits = head(torch.from_numpy(rows)[batch])
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)[batch]).backward()
            optimizer.step()
        schedule.step()
    np.testing.assert_allclose(found.weights.T, head.weight.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(found.bias, head.bias.detach().numpy(), atol=2e-6)


def test_the_sweep_and_its_numbers_are_those_of_scikit_learn(train, asked, tmp_path):
    grid = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    found = results(section(asked, train, validation=0.25, **lbfgs(l2=grid)), tmp_path)
    (rows, labels), (asked_rows, asked_labels) = (rows_of(options, "image_features") for options in (train, asked))
    held = held_out(labels, 0.25, 0, where="")
    assert 0.2 < held.mean() < 0.3

    def peer(l2, used):
        return LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000).fit(rows[used], labels[used])

    scores = {l2: peer(l2, ~held).score(rows[held], labels[held]) for l2 in sorted(grid, reverse=True)}
    best = max(scores, key=scores.get)
    assert grid[0] < best < grid[-1] and len(set(scores.values())) > 2, "there is something to choose"
    final = peer(best, np.ones(len(rows), bool))
    logits = final.decision_function(asked_rows)
    assert found["e/top1"].value == pytest.approx(final.score(asked_rows, asked_labels), abs=1e-7)
    assert found["e/top5"].value == pytest.approx(top_k_accuracy_score(asked_labels, logits, k=5), abs=1e-7)
    balanced = balanced_accuracy_score(asked_labels, final.predict(asked_rows))
    assert found["e/mean_per_class"].value == pytest.approx(balanced, abs=1e-7)
    assert found["e/top1"].value < found["e/top5"].value < 1
    protocol = found["e/top1"].protocol
    assert "L-BFGS, the best of 5 l2 from 0.001 to 10 by top-1 on held-out images" in protocol
    assert found["e/top1"].facts["fit"] == f"l2 {best:g} by {held.sum()} held-out images"
    assert "118 images, 1 images left out: n3" in protocol and "of 209 images of " in protocol
    for result in found.values():
        low, high = interval(result.outcome)
        assert low <= result.value <= high and low < high


def test_a_validation_source_chooses_and_is_fitted_on_in_the_end(train, asked, tmp_path):
    more = labelled_images.write(tmp_path / "more", 15, seed=2, classes=CLASSES)
    found = results(section(asked, train, validation=more, **lbfgs(l2=(1.0, 0.1))), tmp_path)["e/top1"]
    (rows, labels), (extra, extra_labels) = (rows_of(options, "image_features") for options in (train, more))
    scores = {
        l2: LogisticRegression(C=1 / l2, tol=1e-8).fit(rows, labels).score(extra, extra_labels) for l2 in (1, 0.1)
    }
    best = max(scores, key=scores.get)
    both = np.concatenate([rows, extra]), np.concatenate([labels, extra_labels])
    final = LogisticRegression(C=1 / best, tol=1e-8, max_iter=1000).fit(*both)
    assert found.value == pytest.approx(final.score(*rows_of(asked, "image_features")), abs=1e-7)
    assert "and 15 of manifest" in found.protocol and "by 15 held-out" in found.facts["fit"]


def test_standardised_rows_are_those_of_scikit_learn(train, asked, tmp_path):
    options = {"standardise": True, "features": "embedding", **lbfgs(l2=3.0)}
    found = results(section(asked, train, **options), tmp_path)["e/top1"]
    (rows, labels), (asked_rows, asked_labels) = rows_of(train), rows_of(asked)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    peer = LogisticRegression(C=1 / 3, tol=1e-8).fit((rows - mean) / deviation, labels)
    assert found.value == pytest.approx(peer.score((asked_rows - mean) / deviation, asked_labels), abs=1e-7)
    assert "standardised embeddings of 209" in found.protocol and "held-out" not in found.protocol


def test_the_same_numbers_on_one_and_eight_devices(train, asked, tmp_path):
    for options in (lbfgs(l2=(0.1, 1.0)), {"solver": {"name": "sgd", "batch_size": 30, "epochs": 20}}):
        one, eight = (results(section(asked, train, **options), tmp_path, devices) for devices in (1, 8))
        assert {name: (r.value, r.n, r.protocol) for name, r in one.items()} == {
            name: (r.value, r.n, r.protocol) for name, r in eight.items()
        }


def test_warnings_stand_in_the_protocol(train, asked, tmp_path):
    found = results(section(asked, train, **lbfgs(l2=(1e3, 1e4), steps=2)), tmp_path)["e/top1"]
    assert "WARNING: the best l2 lies at the edge" in found.facts["fit"]
    assert "WARNING: not converged after 2 steps" in found.facts["fit"]


def test_the_paper_recipe_is_named(train, asked, tmp_path):
    found = results(section(asked, train, solver={"name": "sgd"}), tmp_path)["e/top1"]
    assert found.protocol.endswith(
        "SGD, learning_rate 0.1, momentum 0.9, batch_size 1024, epochs 100, decay 0.2, every 30, seed 0"
    )
    assert found.value > 0.5


def test_a_class_without_training_images_is_said(train, asked, tmp_path):
    lines = Path(train["path"]).read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"gnu"' not in line] + lines[:6] * 4
    folder = tmp_path / "fewer"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no picture")  # the only "gnu"
    gone = '{"image": "' + str(folder / "broken.png") + '", "text": "gnu", "label": "gnu"}\n'
    (folder / "pairs.jsonl").write_text("".join([*kept, gone]))
    fewer = {"name": "manifest", "path": str(folder / "pairs.jsonl"), "images": train["path"].rpartition("/")[0]}
    found = results(section(asked, fewer, **lbfgs(l2=1.0)), tmp_path)["e/mean_per_class"]
    assert "1 of 7 classes without training images" in found.protocol
    assert found.value < 6 / 7


def test_the_share_that_is_held_out_is_of_each_class():
    labels = np.array([0] * 10 + [1] * 20 + [2])
    held = held_out(labels, 0.3, 0, where="")
    assert np.bincount(labels[held], minlength=3).tolist() == [3, 6, 0], "the only one of its class is kept"
    assert (held == held_out(labels, 0.3, 0, where="")).all() and (held != held_out(labels, 0.3, 1, where="")).any()


def test_pictures_of_the_last_run(train, asked, tmp_path):
    made = evaluator(section(asked, train, **lbfgs(l2=1.0)), tmp_path)
    assert list(made.panels()) == []
    top1 = next(iter(made.run(PARAMS, {})))
    (confusion,) = made.panels()
    assert isinstance(confusion, panels.Confusion)
    errors = confusion.counts.sum() - confusion.counts.trace()
    assert errors == round((1 - top1.value) * top1.n) > 0, "a class that is not shown is always right"


def test_features_are_kept_and_shared_with_knn(train, asked, tmp_path):
    plain = results(section(asked, train, **lbfgs(l2=1.0)), tmp_path)["e/top1"]
    kept = results(section(asked, train, cache=True, **lbfgs(l2=1.0)), tmp_path)["e/top1"]
    assert kept.value == plain.value
    results({"kind": "knn", "source": asked, "bank": train, "features": "features", "cache": True}, tmp_path)
    assert len(list((tmp_path / "features").iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": {"name": "lbgfs"}}, r"evals\.e\.solver\.name: found 'lbgfs'; did you mean 'lbfgs'"),
        ({"solver": {}}, "solver.name: found None"),
        ({"solver": {"name": "sgd", "l2": 1.0}}, "solver: unknown key 'l2'"),
        (lbfgs(l2=(1.0, 0.0)), r"evals\.e\.solver: expected finite l2 and tolerance above 0"),
        (lbfgs(l2=()), "expected finite l2 and tolerance above 0"),
        (lbfgs(l2=(float("nan"), 1.0)), "expected finite l2"),
        (lbfgs(l2="auto"), r"evals\.e\.solver\.l2: expected a number or a list of numbers, found 'auto'"),
        ({"solver": "lbfgs"}, r"evals\.e\.solver: expected a section, found 'lbfgs'"),
        ({"validation": "held_out"}, r"evals\.e\.validation: expected a section or a number, found 'held_out'"),
        ({"seed": -1}, r"evals\.e\.seed: expected a whole number of at least 0, found -1"),
        ({"standardise": 1}, r"evals\.e\.standardise: expected True or False, found 1"),
        ({"solver": {"name": "sgd", "seed": -1}}, r"evals\.e\.solver\.seed: expected a whole number of at least 0"),
        ({"solver": {"name": "sgd", "momentum": 1.0}}, r"evals\.e\.solver: expected learning_rate above 0"),
        ({"validation": 0.0}, r"evals\.e\.validation: expected a source, or a share between 0 and 1.*holds out 0"),
        ({"validation": 0.001}, "holds out 0"),
        ({"validation": {"name": "manifest", "path": "x.jsonl"}, **lbfgs(l2=1.0)}, "expected a solver that sweeps"),
        ({"features": "pixels"}, "features: expected one of"),
    ],
)
def test_a_wrong_option_is_refused(options, message, train, asked, tmp_path):
    with pytest.raises(AlignError, match=message):
        evaluator(section(asked, train, **options), tmp_path)


def test_wrong_data_are_refused(train, asked, tmp_path):
    other = labelled_images.write(tmp_path / "other", 14, classes=(*CLASSES[:-1], "hen"))
    with pytest.raises(AlignError, match=r"evals\.e\.source: expected the classes of .*\['hen'\] only in"):
        evaluator(section(other, train), tmp_path)
    with pytest.raises(AlignError, match=r"evals\.e\.validation: expected the classes of"):
        evaluator(section(asked, train, validation=other), tmp_path)
    for options in ({"train": asked}, {"validation": asked}, {"train": asked | {"share": 0.9}}):
        with pytest.raises(
            AlignError, match=rf"evals\.e\.{min(options)}: expected other images than those of the source"
        ):
            evaluator(section(asked, train) | options, tmp_path)
    plain = tmp_path / "other" / "plain.jsonl"
    plain.write_text('{"image": "0.png", "text": "x"}\n')
    with pytest.raises(AlignError, match=r"evals\.e\.train: expected a source with classes"):
        evaluator(section(asked, {"name": "manifest", "path": str(plain)}), tmp_path)


def test_the_sections_of_the_config_have_keys_that_evaluators_take(monkeypatch):
    """Up to the opening of their data sets, of which tests have none."""
    path = Path(__file__).parent.parent / "configs" / "evals" / "probes.py"
    sections = runpy.run_path(str(path))["get_config"]()
    assert f"--evals={path.relative_to(path.parents[2])}" in path.read_text(), "the run command stands on top"
    assert {"imagenet_knn", "imagenet_sgd", "imagenet_lbfgs", "pets", "aircraft"} <= set(sections)
    one = embedder()

    def opened(options):
        cls = {"tfds": TfdsPairs, "manifest": Manifest}[options.pop("name")]
        inspect.signature(cls).bind(**options)
        raise AlignError("opened")

    monkeypatch.setattr(one, "open", opened)
    for name, section in sections.items():
        with pytest.raises(AlignError, match=r"^opened$"):
            evals.make({name: section.to_dict()}, one, functions=FUNCTIONS, workdir=Path())
