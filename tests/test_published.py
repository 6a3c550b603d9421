"""config.init.image and config.init.text: towers as they are, another is refused; locked, and on features."""

import numpy as np
import pytest
from tiny_run import config as tiny_config
from tiny_run import manifest

from align_jax import config as configs
from align_jax import published
from align_jax.interop.pretrained import Pretrained
from align_jax.types import AlignError

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "square", "red", "green", "blue", "grey", "##s")
IMAGE = {"width": 0.25, "depth": 1.0, "stages": ((1, 3, 1, 16), (2, 3, 6, 24)), "strides": (2, 2), "padding": "hf",
         "squeeze": False, "activation": "relu6", "head_conv": False}  # fmt: skip
TEXT = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32, "max_length": 12, "epsilon": 1e-6}


@pytest.fixture
def config(tmp_path):
    """A config that leaves its towers to their sources."""
    config = tiny_config(manifest(tmp_path / "data"))
    config.task.image, config.task.text = {"bn_group_size": 4}, {"dropout": 0.0}
    config.data.vocab = {"path": ""}
    config.init.update({"image": "there", "text": "there"})
    return config


def source(image=(), text=(), **changes):
    """What a reader would give."""
    fields = {
        "where": "models/there", "model_state": {},
        "params": {"image_tower": {}, "text_tower": {"word_embedding": {"embedding": np.zeros((12, 16))}}},
        "task": {"image": {**IMAGE, **dict(image)}, "text": {**TEXT, **dict(text)}, "pixels": "lite"},
        "data": {"resample": "bicubic", "vocab": {"size": 12, "lowercase": False}},
        "files": {"vocab.txt": lambda path: path.write_text("".join(f"{piece}\n" for piece in PIECES))},
        "facts": {}, "ignored": {},
    }  # fmt: skip
    return Pretrained(**(fields | changes))


def fitted(config, given=None):
    given = given or source()
    return published.fitted(config, {"image": given, "text": given})


def test_what_a_config_leaves_out_is_taken(config):
    found = configs.plain(fitted(config))
    image, text = found["task"]["image"], found["task"]["text"]
    assert image["padding"] == "hf" and image["stages"] == [[1, 3, 1, 16], [2, 3, 6, 24]] and not image["squeeze"]
    assert image["bn_group_size"] == 4 and "stochastic_depth" not in image
    assert text["epsilon"] == 1e-6 and text["dropout"] == 0.0 and text["type_vocab"] == 2
    assert found["task"]["pixels"] == "lite" and found["data"]["resample"] == "bicubic"
    assert found["data"]["vocab"] == {"path": "", "size": 12, "lowercase": False}
    assert configs.plain(fitted(configs.ConfigDict(found))) == found, "what is resolved fits"


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("task.image.padding", "same", "padding='same' for 'hf'; give --config.task.image.padding=hf"),
        ("task.image.variant", "b0", "width=1.0 for 0.25, .*; give task.image = {} in the config"),
        ("task.image.stages", ((1, 3, 1, 16),), r"config.task.image.stages=\(\(1, 3, 1, 16\),\) for \(\(1, 3, 1, 16"),
        ("task.text.layers", 2, "the tower of models/there, found config.task.text.layers=2 for 1; give --config"),
        ("task.text.epsilon", 1e-12, "--config.task.text.epsilon=1e-06"),
        ("task.pixels", "symmetric", "config.task.pixels='symmetric' for 'lite'; give --config.task.pixels=lite"),
        ("data.resample", "bilinear", "give --config.data.resample=bicubic"),
        ("data.vocab.size", 64, "config.data.vocab.size=64 for 12; give --config.data.vocab.size=12"),
    ],
    ids=str,
)  # fmt: skip
def test_another_tower_is_refused(config, key, value, match):
    *sections, last = key.split(".")
    node = config
    for section in sections:
        node = node[section]
    node[last] = value
    with pytest.raises(AlignError, match=match) as error:
        fitted(config)
    assert "\n" not in str(error.value)
