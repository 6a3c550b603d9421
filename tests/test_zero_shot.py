"""Zero-shot classification against clip-benchmark and scikit-learn, with a model whose embeddings are known."""

import importlib.util
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
import torch
from clip_benchmark.metrics import zeroshot_classification as peer
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from align_jax import config as configs
from align_jax import evals, sharding
from align_jax.data import source as sources
from align_jax.data.pairs import Pairs
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.evals import prompts, statistics
from align_jax.evals.blockwise import Blockwise
from align_jax.evals.embedding import Embedder
from align_jax.evals.panels import Confusion, Grid
from align_jax.evals.prompts import Prompts
from align_jax.evals.zero_shot import class_weights, ranks
from align_jax.types import AlignError

ROOT = Path(__file__).parent.parent
CLASSES = ("amber", "blue", "cyan", "gold", "green", "pink", "red")
TEMPLATES = ("a {} thing", "{}", "one {c} colour")
PIECES = (*SPECIAL, *CLASSES, "a", "thing", "one", "colour")
PARAMS = np.random.default_rng(0).normal(size=(len(PIECES), 3)).astype(np.float32)


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def embed_images(params, model_state, inputs):
    """The mean colour, from grey."""
    return unit(jnp.mean(inputs["image"].astype(jnp.float32), axis=(1, 2)) - jnp.float32(127))


def embed_texts(params, model_state, inputs):
    """The sum of a vector per word."""
    rows = params[inputs["text_ids"]] * inputs["text_mask"][..., None].astype(jnp.float32)
    return unit(jnp.sum(rows, axis=1))


FUNCTIONS = {"embed_images": embed_images, "embed_texts": embed_texts}


def embedder(devices=1):
    pairs = Pairs(WordPiece(PIECES), resize=8, crop=6, flip=False, text_length=6)
    return Embedder(FUNCTIONS, pairs, mesh=sharding.make_mesh(devices=devices), batch_size=16)


def write_source(folder, labels, colours=None):
    """A manifest of pictures of one colour each, by default drawn; None: a record without a label."""
    rng = np.random.default_rng(1)
    rows = []
    for i, label in enumerate(labels):
        colour = tuple(rng.integers(0, 256, 3).tolist()) if colours is None else colours[i]
        Image.new("RGB", (8, 8), colour).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "texts": ["x"], "id": f"record-{i}", "label": label})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "manifest", "path": str(folder / "pairs.jsonl")}


@pytest.fixture
def source(tmp_path):
    """60 pictures, most of them amber; the last one cannot be read."""
    labels = np.random.default_rng(2).choice(CLASSES, 60, p=[0.4, *[0.1] * 6])
    found = write_source(tmp_path, labels.tolist())
    (tmp_path / "59.png").write_bytes(b"no picture")
    return found


def make(tmp_path, devices=1, **section):
    sections = {"z": {"kind": "zero_shot", "templates": TEMPLATES, **section}}
    return evals.make(sections, embedder(devices), functions=FUNCTIONS, workdir=tmp_path)[0]


def results(evaluator, params=PARAMS):
    return {result.name: result for result in evaluator.run(params, {})}


class Peer:
    """The toy model, as clip-benchmark calls one: a text is its number."""

    def __init__(self):
        self.texts = []

    def tokenize(self, texts):
        self.texts += texts
        return torch.arange(len(self.texts) - len(texts), len(self.texts))

    def encode_text(self, numbers):
        return torch.from_numpy(embedder().texts(PARAMS, {}, [self.texts[i] for i in numbers]))


def peer_logits(source, names=CLASSES):
    """(logits [n, C], labels [n], class weights [D, C]) of the readable pictures."""
    one, opened = embedder(), sources.make(**source)
    images, bad = one.images(PARAMS, {}, opened)
    model = Peer()
    templates = [template.replace("{}", "{c}") for template in TEMPLATES]
    weights = peer.zero_shot_classifier(model, model.tokenize, list(names), templates, "cpu", amp=False)
    read = [i for i in range(len(images)) if i not in bad]
    logits = torch.from_numpy(images[read]) @ weights
    return logits, torch.tensor([opened.about(i).label for i in read]), weights


def test_accuracy_is_that_of_clip_benchmark_and_scikit_learn(source, tmp_path):
    found = results(make(tmp_path, source=source))
    logits, labels, weights = peer_logits(source)
    asked = Prompts(CLASSES, prompts.load("templates", TEMPLATES, language="en", where=""))
    np.testing.assert_allclose(class_weights(embedder(), PARAMS, {}, asked), weights.numpy().T, rtol=2e-6)
    # Not by its `accuracy`, which asks numpy for what it no longer does.
    top1, top5 = (top_k_accuracy_score(labels, logits, k=k, labels=range(7)) for k in (1, 5))
    assert 0 < top1 < top5 < 1
    assert found["z/top1"].value == pytest.approx(top1) and found["z/top5"].value == pytest.approx(top5)
    balanced = balanced_accuracy_score(labels, logits.argmax(1))
    assert found["z/mean_per_class"].value == pytest.approx(balanced) and balanced != pytest.approx(top1, abs=1e-3)
    assert found["z/majority_class"].value == pytest.approx(np.bincount(labels).max() / 59)


def test_results_carry_what_is_needed_to_compare_them(source, tmp_path):
    found = results(make(tmp_path, source=source))
    other = results(make(tmp_path, source=source), PARAMS[::-1])
    for name, result in found.items():
        assert result.n == 59 and result.facts.keys() == {"data", "prompts", "crop"}
        assert result.facts["crop"] == "central 6 px of 8 x 8" and "59.png" not in result.facts.values()
        assert "7 classes, names of the source, 3 prompts ['a {} thing', '{}', 'one {c} colour']" in result.protocol
        assert "ties pessimistic, 1 images left out: record-59 (image unreadable)" in result.protocol
        if result.outcome is not None:
            assert statistics.estimate(result.outcome) == result.value
            difference = statistics.paired(result.outcome, other[name].outcome)
            assert difference.value == pytest.approx(other[name].value - result.value)
    assert found["z/majority_class"].outcome is None, "no model gives it"
    shorter = results(make(tmp_path, source=source, templates=("{}",)))
    assert shorter["z/top1"].facts["prompts"] != found["z/top1"].facts["prompts"]
    assert shorter["z/top1"].outcome.ids == found["z/top1"].outcome.ids, "the same images, asked otherwise"


def test_numbers_are_the_same_on_one_and_eight_devices(source, tmp_path):
    one, eight = (results(make(tmp_path, devices, source=source)) for devices in (1, 8))
    for name, result in one.items():
        assert result._replace(outcome=None) == eight[name]._replace(outcome=None)
        if result.outcome is not None:
            np.testing.assert_array_equal(result.outcome.values, eight[name].outcome.values)


def test_ties_are_lost_but_to_later_classes_of_the_same_name():
    mesh = sharding.make_mesh(devices=1)
    images, names = np.eye(4, dtype=np.float32), ("a", "b", "b", "c", "b", "d")
    rows = np.eye(4, dtype=np.float32)[[0, 1, 1, 1, 1, 2]]  # b thrice, c as b is, d alone
    labels = np.array([0, 1, 1, 2])
    found = ranks(Blockwise(mesh, images, rows), labels, names)
    # Image 1 is b, as is c: c and not the later b stand before. Image 3 is like no class: all but later b stand before.
    assert found.tolist() == [0, 1, 5 - 2, 5 - 1]
    assert ranks(Blockwise(mesh, images[:2], rows[[0, 1, 1]]), np.array([1, 2]), ("a", "b", "b")).tolist() == [2 - 1, 1]


def test_a_model_that_knows_nothing_guesses_nothing(source, tmp_path):
    found = results(make(tmp_path, source=source), np.ones_like(PARAMS))
    assert found["z/top1"].value == found["z/top5"].value == found["z/mean_per_class"].value == 0


def test_no_top5_of_five_classes(tmp_path):
    source = write_source(tmp_path, CLASSES[:5])
    assert "z/top5" not in results(make(tmp_path, source=source))


def test_classes_of_one_name_the_first_is_guessed(tmp_path):
    source = write_source(tmp_path, ["amber", "gold"], [(255, 120, 0)] * 2)
    found = results(make(tmp_path, source=source, classes=("red", "red"), templates=("{}",)))
    assert found["z/top1"].outcome.values.tolist() == [1, 0]
    assert "of classes with one name the first is guessed (red)" in found["z/top1"].protocol


@pytest.mark.parametrize("subset", ["present", CLASSES[1:4]])
def test_scores_are_taken_over_the_subset(subset, tmp_path):
    labels = np.random.default_rng(3).choice(CLASSES[1:4] if subset == "present" else CLASSES, 40).tolist()
    source = write_source(tmp_path, labels)
    if subset == "present":  # a source of more classes than its records have, as ImageNet-R in tfds
        more = [{"image": "0.png", "texts": ["x"], "id": name, "label": name} for name in CLASSES]
        with (tmp_path / "pairs.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in more)
        (tmp_path / "kept.txt").write_text("".join(f"record-{i}\n" for i in range(40)))
        source["filter"] = ({"path": str(tmp_path / "kept.txt")},)
    found = results(make(tmp_path, source=source, subset=subset))
    logits, known, _ = peer_logits(source)
    kept = np.isin(known, [1, 2, 3])
    right = logits[kept][:, 1:4].argmax(1) + 1 == known[kept]
    assert found["z/top1"].value == pytest.approx(float(right.float().mean())) and found["z/top1"].n == kept.sum()
    told = "those present" if subset == "present" else "a list"
    assert f"3 classes of 7 ({told})" in found["z/top1"].protocol
    others = f", {40 - kept.sum()} records of other classes left out" if kept.sum() < 40 else ""
    assert f"ties pessimistic{others}," in found["z/top1"].protocol + ","
    assert "z/top5" not in found


def test_class_weights_are_made_once_for_all_evaluators_and_in_parts(source, tmp_path, monkeypatch):
    one, asked = embedder(), []
    texts = one.texts
    monkeypatch.setattr(one, "texts", lambda *a, **k: asked.extend(a[2]) or texts(*a, **k))
    section = {"kind": "zero_shot", "source": source, "templates": TEMPLATES}
    made = evals.make({"a": section, "b": dict(section)}, one, functions=FUNCTIONS, workdir=tmp_path)
    with one.remembering():
        whole = [result.value for evaluator in made for result in evaluator.run(PARAMS, {})]
    assert len(asked) == len(set(asked)) == 21
    monkeypatch.setattr("align_jax.evals.zero_shot.BLOCK", 6)
    assert [result.value for evaluator in made for result in evaluator.run(PARAMS, {})] == whole


def test_panels_show_the_worst_classes_and_drawn_images(source, tmp_path):
    made = make(tmp_path, source=source)
    assert list(made.panels()) == [], "before a run there is nothing to show"
    top1 = results(made)["z/top1"].value
    confusion, wrong, right = made.panels()
    assert isinstance(confusion, Confusion) and isinstance(wrong, Grid) and isinstance(right, Grid)
    logits, labels, _ = peer_logits(source)
    for row, name in enumerate(confusion.classes):
        of = logits.argmax(1)[labels == CLASSES.index(name)]
        assert confusion.counts[row].tolist() == [int((of == CLASSES.index(c)).sum()) for c in confusion.classes]
    assert wrong.note.startswith("12 of ") and f"of {round(top1 * 59)} images" in right.note
    for grid, good in ((wrong, False), (right, True)):
        for item, hits in grid.rows:
            assert item.picture and len(hits) == 5 and hits[0].right is good
            assert [hit.item.text == item.text for hit in hits] == [hit.right for hit in hits]
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [row[0] for row in list(made.panels())[1].rows] == [row[0] for row in wrong.rows], "the same draw"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"templates": ("no place",)}, r"evals\.z\.templates: expected {} in place of the class .*'no place'"),
        ({"templates": ()}, r"evals\.z\.templates: expected texts, found \(\)"),
        ({"templates": ("{}", "")}, "expected texts, found"),
        ({"templates": "imagenet"}, "no templates of 'imagenet' in 'en'; did you mean 'imagenet1k'"),
        ({"templates": "imagenet1k", "language": "de"}, "expected language to be one of"),
        ({"templates": ("a {} {x}",)}, r"expected no braces but those of {} in a template, found 'a {} {x}'"),
        ({"templates": "none.json"}, r"expected a JSON file at none.json, found .* No such file"),
        ({"classes": ("red",)}, r"evals\.z\.classes: expected a name for each of 7 classes .* found 1 names"),
        ({"classes": "cifar10"}, "no classes of 'cifar10' in 'en'"),
        ({"classes": (*CLASSES[:5], "red", "pink")}, "number 5 is 'pink', found 'red' there and 'pink' at 6"),
        ({"subset": ("red", "black")}, r"evals\.z\.subset: expected 'present' or classes .*, found 'black'"),
        ({"subset": "presnt"}, "found 'presnt'"),
        ({"clases": ()}, "did you mean 'classes'"),
    ],
)
def test_a_wrong_section_is_refused(section, message, source, tmp_path):
    with pytest.raises(AlignError, match=message):
        make(tmp_path, source=source, **section)


def test_a_file_nested_too_deep_is_refused(source, tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(AlignError, match=r"evals\.z\.templates: expected a JSON file at .*deep\.json"):
        make(tmp_path, source=source, templates=str(tmp_path / "deep.json"))


def test_records_without_a_label_are_named(tmp_path):
    source = write_source(tmp_path, ["red", "blue", None, None])
    with pytest.raises(AlignError, match="expected a label for each record, found none for 2 of 4, first 'record-2'"):
        make(tmp_path, source=source)
    with pytest.raises(AlignError, match=r"evals\.z\.source: expected a source with classes, found none"):
        make(tmp_path, source=write_source(tmp_path, [None]))


def test_a_file_of_ones_own(source, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"classes": [f"a {name} one" for name in CLASSES], "templates": ["{c} thing", "{}"]}))
    found = results(make(tmp_path, source=source, templates=str(own), classes=str(own)))
    given = results(
        make(tmp_path, source=source, templates=("{} thing", "{}"), classes=[f"a {n} one" for n in CLASSES])
    )
    assert found["z/top1"].facts == given["z/top1"].facts and found["z/top1"].value == given["z/top1"].value
    assert f"names of {own}, 2 prompts of {own}" in found["z/top1"].protocol
    own.write_text('{"classes": "red"}')
    with pytest.raises(AlignError, match=r'expected {"classes": \[text, ..\]} in .*own.json, found'):
        make(tmp_path, source=source, classes=str(own))


def test_wordnet_ids_have_the_names_of_imagenet(tmp_path):
    ids, names = prompts.imagenet_ids(), prompts.load("classes", "imagenet1k", language="en", where="")
    assert ids == sorted(ids) and len(ids) == len(names) == 1000
    # Facts of ImageNet: n02123045 is the tabby cat, n07753592 the banana.
    given = {"alike": True, "where": "c"}
    assert prompts.match(names, ["n07753592", "n02123045"], **given) == ("banana", "tabby cat")
    assert prompts.match(names, ids, **given) == names
    with pytest.raises(AlignError, match=r"expected WordNet ids of ImageNet's 1000 classes, found \['n00000001'"):
        prompts.match(names, ["n07753592", "n00000001"], **given)
    source = write_source(tmp_path, ["n07753592", "n02123045"])
    with pytest.raises(AlignError, match=r"expected names of the classes, since the source calls them \['n02123045'"):
        make(tmp_path, source=source)
    found = results(make(tmp_path, source=source, classes="imagenet1k", templates=("{}",)))
    assert found["z/top1"].facts["prompts"] == Prompts(("tabby cat", "banana"), ("{}",)).digest()


def test_numbers_are_places_among_the_names():
    """Sorted as texts, as folders are, '10' comes before '2'."""
    numbers, names = sorted(map(str, range(11))), tuple("abcdefghijk")
    assert "".join(prompts.match(names, numbers, alike=False, where="c")) == "abkcdefghij"
    with pytest.raises(AlignError, match="from 1 to 11, found 11 names; the first name is that of class 0"):
        prompts.match(names, [str(i + 1) for i in range(11)], alike=False, where="c")


def test_names_of_another_data_set_are_refused():
    given = ("AnnualCrop", "Forest", "HerbaceousVegetation")
    assert prompts.match(("crop land", "forest", "brushland"), given, alike=True, where="c")
    with pytest.raises(AlignError, match="none shares a word with its class; if they do belong together"):
        prompts.match(("zero", "one", "two"), given, alike=True, where="c")
    assert prompts.match(("Acker", "Wald", "Wiese"), given, alike=False, where="c")


def test_a_source_s_own_names_become_words():
    names = ("/a/apse/indoor", "baby_back_ribs", "Abyssinian", "baseball_diamond")
    assert prompts.own_names(names, where="c") == ("apse indoor", "baby back ribs", "Abyssinian", "baseball diamond")


def test_without_clip_benchmark_the_error_says_what_to_install(source, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AlignError, match="run: pip install --no-deps clip-benchmark, or give them, or a file"):
        make(tmp_path, source=source, templates="cifar10")


def load_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


SECTIONS = load_config(ROOT / "configs" / "evals" / "zero_shot.py")


@pytest.mark.parametrize("name", [name for name, section in SECTIONS.items() if section.kind == "zero_shot"])
def test_the_config_s_prompts_fit_its_data_sets(name, tmp_path):
    section, where = configs.plain(SECTIONS)[name], f"evals.{name}"
    templates = prompts.load("templates", section["templates"], language="en", where=where)
    assert all("{}" in template for template in templates)
    if section["source"]["name"] != "tfds":
        return
    with pytest.raises(AlignError, match="is not prepared"):  # all that comes before is right
        sources.make(**section["source"], data_dir=str(tmp_path))
    builder = tfds.builder(section["source"]["dataset"], data_dir=str(tmp_path))
    classes = builder.info.features["label"].names
    if "classes" in section:
        names = prompts.load("classes", section["classes"], language="en", where=where)
        assert len(prompts.match(names, classes, alike=True, where=where)) == len(classes)
    elif name not in ("cifar10", "cifar100", "stl10"):  # whose names come with the data
        assert prompts.own_names(classes, where=where)
