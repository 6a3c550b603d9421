"""A model of ours for clip-benchmark: what its metrics and its command line ask of a CLIP.

from align_jax.adapters import clip_benchmark
model, transform, tokenizer = clip_benchmark.load("runs/demo")
zeroshot_retrieval.evaluate(model, loader, tokenizer, device="cpu", amp=False)  # the pictures of loader by transform

Its whole command line, with `--model_type=align_jax` for a folder of ours:

python -m align_jax.adapters.clip_benchmark eval --model_type=align_jax --pretrained=runs/demo \\
  --dataset=wds/mine --dataset_root=mine --task=zeroshot_retrieval --num_workers=0 --no_amp --output=result.json

That needs all that clip-benchmark needs (torchvision, open_clip, pycocoevalcap); `--output`, since by default the path
of the model would be a part of the file's name; `--num_workers=0` with wds/ data sets, which cannot be pickled; and for
classification with clip-benchmark 1.6.2 a numpy below 2.4, since it makes numbers of arrays of one element.
"""

import dataclasses
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from align_jax.adapters.pytorch import pytorch
from align_jax.data.examples import Examples
from align_jax.data.views import View
from align_jax.types import AlignError

if TYPE_CHECKING:
    import torch

    from align_jax.model import Model

MODEL_TYPE = "align_jax"
ENDED = -1  # in place of word pieces where a text has ended


@dataclasses.dataclass(frozen=True)
class Transform:
    """PIL image -> torch uint8 [3, S, S]: the square that the model sees. Picklable, for the workers of a loader."""

    view: View

    def __call__(self, image: Any) -> "torch.Tensor":
        """BadExample for a picture that cannot be read."""
        return pytorch().from_numpy(np.ascontiguousarray(self.view.evaluate(image).transpose(2, 0, 1)))


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Texts -> torch int64 [B, L]: word pieces, and -1 where a text has ended."""

    pairs: Examples

    def __call__(self, texts: str | list[str]) -> "torch.Tensor":
        """AlignError for a text without a word."""
        found = self.pairs.texts([texts] if isinstance(texts, str) else texts)
        ids, mask = found["text_ids"], found["text_mask"]
        return pytorch().from_numpy(np.where(mask, ids, ENDED).astype(np.int64))


class Encoder:
    """The model: `encode_image` and `encode_text` of what `Transform` and `Tokenizer` give, in unit rows.

    A tensor gives a tensor on the same device (the model itself computes where jax does), an array gives an array.
    Everything is computed as the model was trained, in spite of `torch.autocast`.
    """

    def __init__(self, model: "Model"):
        self.model = model

    def encode_image(self, images: "torch.Tensor | np.ndarray") -> "torch.Tensor | np.ndarray":
        """uint8 [B, 3, S, S] -> f32 [B, D]. AlignError for another shape or dtype."""
        side = self.model.image_size
        pixels = _array(images)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, side, side):
            raise AlignError(
                f"encode_image: expected uint8 [B, 3, {side}, {side}] as the adapter's transform gives, found "
                f"{pixels.dtype} {list(pixels.shape)}"
            )
        return _like(images, self.model.run("embed_images", {"image": pixels.transpose(0, 2, 3, 1)}))

    def encode_text(self, tokens: "torch.Tensor | np.ndarray") -> "torch.Tensor | np.ndarray":
        """int64 [B, L] -> f32 [B, D]. AlignError for another shape."""
        pieces = _array(tokens)
        if pieces.ndim != 2 or pieces.dtype.kind != "i" or pieces.shape[1] != self.model.text_length:
            raise AlignError(
                f"encode_text: expected int64 [B, {self.model.text_length}] as the adapter's tokenizer gives, found "
                f"{pieces.dtype} {list(pieces.shape)}"
            )
        mask = pieces != ENDED
        batch = {"text_ids": np.where(mask, pieces, 0).astype(np.int32), "text_mask": mask}
        return _like(tokens, self.model.run("embed_texts", batch))

    def eval(self) -> "Encoder":
        """Itself: it is always in inference mode."""
        return self


def load(
    pretrained: "str | Path | Model", model_name: str = "", cache_dir: str | None = None, device: Any = "cpu"
) -> tuple[Encoder, Transform, Tokenizer]:
    """(model, transform, tokenizer) of what `align_jax.load` takes, or of a loaded model.

    `model_name`, `cache_dir` and `device` are what clip-benchmark gives its loaders besides; jax finds its own device.
    AlignError for a model that does not embed both images and texts.
    """
    from align_jax import loading  # with jax, which the workers that unpickle a transform do without

    model = loading.load(pretrained) if isinstance(pretrained, str | Path) else pretrained
    lacking = {"embed_images", "embed_texts"} - set(model.functions)
    if lacking:
        raise AlignError(f"clip-benchmark: expected a model of images and texts, found one without {min(lacking)}")
    pairs = model.embedder.pairs
    return Encoder(model), Transform(pairs.view), Tokenizer(pairs)


def register() -> None:
    """Makes `--model_type=align_jax` known to clip-benchmark, in this process."""
    from clip_benchmark import models

    models.TYPE2FUNC[MODEL_TYPE] = load
    if MODEL_TYPE not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(MODEL_TYPE)


def main() -> None:
    """The command line of clip-benchmark with our model type."""
    register()
    from clip_benchmark import cli

    multiprocessing.set_start_method("spawn")  # jax has threads, which a forked worker would wait for in vain
    cli.main()


def _array(given: "torch.Tensor | np.ndarray") -> np.ndarray:
    return given if isinstance(given, np.ndarray) else given.cpu().numpy()


def _like(given: "torch.Tensor | np.ndarray", rows: np.ndarray) -> "torch.Tensor | np.ndarray":
    return rows if isinstance(given, np.ndarray) else pytorch().from_numpy(rows).to(given.device)


if __name__ == "__main__":
    main()
