"""What a user imports: its names and signatures, every kind of input, one line for each mistake, many threads."""

import inspect
import io
import re
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import align_jax
from align_jax import AlignError
from align_jax.evals import prompts
from align_jax.evals.prompts import Prompts
from align_jax.evals.zero_shot import class_weights

ROOT = Path(__file__).parent.parent
TEXTS = ["red cross", "a line in blue", "an orange ellipse"]

# A change here is a change to users' programs.
SIGNATURES = {
    "load": (
        "(name_or_path: str | pathlib.Path, *, regions: str | collections.abc.Sequence[str] | "
        "collections.abc.Mapping[str, str] | None = None) -> align_jax.model.Model"
    ),
    "Model.embed_images": "(self, images: Pictures, *, progress: bool = True) -> numpy.ndarray",
    "Model.embed_texts": "(self, texts: Texts, *, progress: bool = True) -> numpy.ndarray",
    "Model.classify_images": "(self, images: Pictures, *, progress: bool = True) -> numpy.ndarray",
    "Model.similarity": "(self, images: Pictures, texts: Texts) -> numpy.ndarray",
    "Model.score": "(self, images: Pictures, texts: Texts, *, progress: bool = True) -> numpy.ndarray",
    "Model.zero_shot": (
        "(self, classes: str | collections.abc.Iterable[str], templates: str | collections.abc.Iterable[str] = "
        "('a photo of a {}.',), *, language: str = 'en') -> align_jax.zero_shot.ZeroShotClassifier"
    ),
    "Model.run": "(self, function: str, rows: Mapping, *, progress: bool = True) -> numpy.ndarray",
    "ZeroShotClassifier.__call__": "(self, images: Pictures) -> numpy.ndarray",
    "ZeroShotClassifier.scores": "(self, images: Pictures) -> numpy.ndarray",
    "ZeroShotClassifier.names": "(self, images: Pictures) -> list[str]",
}
PROPERTIES = ("embedding_size", "image_size", "temperature", "text_length")


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run)


@pytest.fixture(scope="module")
def photos(finished_run):
    return sorted(finished_run.parent.glob("*.png"))


def signature(name):
    """With short names for the long unions."""
    found = align_jax
    for part in name.split("."):
        found = getattr(found, part)
    text = str(inspect.signature(found)).replace("'Model'", "align_jax.model.Model")
    text = re.sub(r"images: .*?(?=, \*|, texts|\))", "images: Pictures", text)
    text = re.sub(r"texts: str \| collections.abc.Iterable\[str\]", "texts: Texts", text)
    return re.sub(r"rows: collections.abc.Mapping\[.*?\]", "rows: Mapping", text)


def test_names_and_signatures_are_those_that_users_know():
    assert align_jax.__all__ == ["AlignError", "BadExample", "Model", "ZeroShotClassifier", "load"]
    assert set(align_jax.__all__) <= set(dir(align_jax))
    assert {name: signature(name) for name in SIGNATURES} == SIGNATURES
    public = {name for name in vars(align_jax.Model) if not name.startswith("_")}
    assert public == {name.split(".")[1] for name in SIGNATURES if name.startswith("Model.")} | set(PROPERTIES)
    for name in public:
        assert inspect.getdoc(getattr(align_jax.Model, name)), f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        align_jax.lode  # noqa: B018
    assert (Path(align_jax.__file__).parent / "py.typed").exists()


def test_a_model_says_what_it_is(model):
    assert (model.embedding_size, model.image_size, model.text_length) == (16, 32, 8)
    np.testing.assert_allclose(model.temperature, np.exp(float(model.params["log_temperature"])), rtol=1e-6)
    lines = repr(model).splitlines()
    assert re.fullmatch(r"Model of task align: averaged weights at step 12, .*checkpoints/12", lines[0])
    assert re.search(r"image_tower 0\.00 M, .*text_tower 0\.03 M", lines[1])
    assert "images (central 32 px of 36 x 36) and texts of 8 word pieces -> 16 numbers" in lines[2]


def test_one_many_and_one_by_one(model, photos):
    rows = model.embed_images(photos)
    array = np.asarray(Image.open(photos[0]))
    for one in (photos[0], str(photos[0]), photos[0].read_bytes(), bytearray(photos[0].read_bytes()), array):
        np.testing.assert_array_equal(model.embed_images(one), model.embed_images([photos[0]]))
    np.testing.assert_array_equal(model.embed_images(path for path in photos), rows)
    np.testing.assert_array_equal(model.embed_images(np.array(list(map(str, photos)))), rows)
    np.testing.assert_array_equal(model.embed_images(np.stack([array] * 2)), model.embed_images([array] * 2))
    texts = model.embed_texts(TEXTS)
    np.testing.assert_array_equal(model.embed_texts(TEXTS[0]), model.embed_texts(TEXTS[:1]))
    np.testing.assert_array_equal(model.embed_texts(text for text in TEXTS), texts)
    np.testing.assert_array_equal(model.embed_texts(np.array(TEXTS)), texts)
    found = model.similarity(photos, TEXTS)
    assert found.shape == (16, 3) and found.dtype == np.float32
    np.testing.assert_array_equal(found, rows @ texts.T)


def test_a_row_does_not_depend_on_its_batch(model, photos):
    """Of one program to the bit, whatever stands beside it; of programs for other numbers of rows, but for rounding."""
    rows = model.embed_images(photos)
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(model.embed_images([photos[place] for place in order]), rows[order])
    for count in (1, 3, 9):
        np.testing.assert_allclose(model.embed_images(photos[-count:]), rows[-count:], rtol=0, atol=1e-6)


def test_no_more_pictures_are_held_than_are_read_ahead(model, photos):
    class Held:
        most = now = 0

    class Picture(Path(photos[0]).__class__):
        def __init__(self, *parts):
            super().__init__()
            Held.now += 1
            Held.most = max(Held.most, Held.now)

        def __del__(self):
            Held.now -= 1

    assert len(model.embed_images(Picture(photos[place % 16]) for place in range(100))) == 100
    assert Held.most < 40


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], "embed_images: expected at least one input, found none"),
        (3, "images: expected a path, .* or several of these in order, found int"),
        (None, "images: expected a path, .* found NoneType"),
        ({"image": "a.png"}, "images: expected .* found dict"),
        ({"a.png"}, "images: expected .* found set"),
        (io.BytesIO(b"a"), "images: expected .* found BytesIO"),
        (np.array(3), "images: expected .* found an array without axes"),
        ([3, "a.png"], "image 0: expected a path, .* found int"),
        ([np.zeros((2, 2, 3))], r"image 0: expected an array of uint8, .* found float64; .* \(255 \* array\)"),
    ],
)
def test_what_is_no_picture_is_one_line(model, given, error):
    with pytest.raises(AlignError, match=error) as caught:
        model.embed_images(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], "embed_texts: expected at least one input, found none"),
        (3, "texts: expected a text, or several in order, found int"),
        (b"red", "texts: expected a text, or several in order, found bytes"),
        (["red"] * 9 + [3], "text 9: expected a str, found int"),
        (["red"] * 9 + ["\u200b"], r"text 9: expected at least one word, found '\\u200b'"),
        (["\ud800"], "text 0: expected Unicode, .* half a surrogate pair"),
    ],
)
def test_what_is_no_text_is_one_line(model, given, error):
    with pytest.raises(AlignError, match=error):
        model.embed_texts(given)


def test_zero_shot_is_the_evaluators_way(model, photos):
    names, templates = ("red", "green", "blue", "orange"), ("a {} thing", "{}")
    classifier = model.zero_shot(iter(names), templates)
    with jax.set_mesh(model.mesh):
        weights = class_weights(model.embedder, model.params, model.model_state, Prompts(names, templates))
    np.testing.assert_array_equal(classifier.weights, weights)
    by_hand = np.stack([model.embed_texts([f"a {name} thing", name]).mean(0) for name in names])
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.weights, by_hand, atol=1e-6)
    scores = classifier.scores(photos)
    np.testing.assert_array_equal(scores, model.embed_images(photos) @ weights.T)
    powers = np.exp(scores.astype(np.float64) / model.temperature)
    np.testing.assert_allclose(classifier(photos), powers / powers.sum(1, keepdims=True), rtol=1e-4)
    assert classifier(photos).dtype == np.float32
    assert classifier.names(photos[:2]) == [names[place] for place in scores[:2].argmax(1)]
    assert repr(classifier) == f"ZeroShotClassifier(classes={names}, templates={templates})"


def test_zero_shot_templates_need_no_package(model, monkeypatch):
    monkeypatch.setattr(prompts.importlib.util, "find_spec", lambda name: None)
    assert model.zero_shot(["cat"]).templates == ("a photo of a {}.",)
    assert model.zero_shot(["cat"], "a drawing of a {c}").templates == ("a drawing of a {}",)
    with pytest.raises(AlignError, match="templates: expected the package clip-benchmark"):
        model.zero_shot(["cat"], "imagenet1k")


def test_zero_shot_takes_the_lists_of_clip_benchmark(model):
    assert len(model.zero_shot(["cat"], "imagenet1k").templates) == 80
    assert model.zero_shot("mnist", "{}").classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("classes", "templates", "error"),
    [
        ([], "{}", r"classes: expected texts, found \[\]"),
        (["a", 3], "{}", "classes: expected texts, found"),
        (None, "{}", "classes: expected texts, or the name of a list of them, found NoneType"),
        ("cifar", "{}", "clip-benchmark has no classes of 'cifar'"),
        (["a"], ["no place"], "templates: expected {} in place of the class"),
        (["a"], (), r"templates: expected texts, found \[\]"),
    ],
)
def test_zero_shot_refuses_by_name(model, classes, templates, error):
    with pytest.raises(AlignError, match=error):
        model.zero_shot(classes, templates)


def test_many_threads_get_what_one_does(model, photos):
    """On eight devices whose programs gather: two at once would wait for each other."""
    expected, texts = model.embed_images(photos[:5]), model.embed_texts(TEXTS)
    wrong = []

    def serve():
        for _ in range(5):
            same = np.array_equal(model.embed_images(photos[:5]), expected)
            if not same or not np.array_equal(model.embed_texts(TEXTS), texts):
                wrong.append(True)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_prepared_rows_are_what_the_functions_take(model, photos):
    squares = np.stack([model.embedder.pairs.image(str(path)) for path in photos])
    np.testing.assert_array_equal(model.run("embed_images", {"image": squares}), model.embed_images(photos))
    assert model.run("image_features", {"image": squares[:3]}).shape == (3, 24)
    with pytest.raises(AlignError, match=r"image_feature: .* no such function"):
        model.run("image_feature", {"image": squares[:3]})
    with pytest.raises(AlignError, match="expected at least one input"):
        model.run("embed_images", {"image": squares[:0]})


def blocks(text):
    """The Python blocks of a page in Markdown."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_example_of_the_readme_runs(finished_run, photos, tmp_path, monkeypatch, capsys):
    """As it is written, with a folder `runs/mine` and a folder of photos."""
    example = next(block for block in blocks((ROOT / "README.md").read_text("utf-8")) if "zero_shot" in block)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished_run)
    (tmp_path / "photos").mkdir()
    for place, path in enumerate(photos):
        Image.open(path).save(tmp_path / "photos" / f"{place:04}.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["images"].shape == (16, 16)
    assert len(capsys.readouterr().out.splitlines()) >= 4
