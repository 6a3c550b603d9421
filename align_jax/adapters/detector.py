"""A detector of `transformers` by its local folder: boxes, classes, and a feature for each region.

It stands in for the Faster R-CNN with 1600 classes of Visual Genome that the papers of region features use (Anderson et
al. 2018): with the classes it was trained on, 80 of COCO in most folders, and, in place of what a convolution makes of
the box, the decoder's last hidden state of the query that found it. A region is a query with its likeliest class.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from align_jax.adapters.pytorch import pytorch
from align_jax.data.regions import Regions
from align_jax.types import AlignError

# model_type in config.json -> whether its classes exclude each other, with one more for "no object", the last.
# The others have a sigmoid for each class.
KINDS = {
    "detr": True, "table-transformer": True, "conditional_detr": False, "deformable_detr": False, "rt_detr": False,
    "rt_detr_v2": False, "d_fine": False,
}  # fmt: skip


class Detector:
    """Finds regions in pictures.

    Attributes: classes (names, C), width (F: the decoder's width), facts (for people and for regions.json).
    """

    def __init__(
        self,
        folder: Path,
        *,
        most: int = 100,
        least: int = 10,
        min_score: float = 0.2,
        probabilities: bool = False,
        device: str | None = None,
    ):
        """Loads the model and its image processor.

        Args:
          folder: as `save_pretrained` writes it, with preprocessor_config.json.
          most, least: regions of an image; between them, those of at least `min_score` are kept. By default as
            bottom-up attention: 10 to 100 above 0.2.
          probabilities: whether the distribution over the classes is given; it is that of the softmax without "no
            object", or the sigmoids divided by their sum.
          device: of torch; by default "cuda" where there is one, else "cpu".

        Raises:
          AlignError: for a folder of something else, and where torch is not installed.
        """
        if not 0 <= least <= most or most < 1:
            raise AlignError(f"--least, --most: expected 0 <= least <= most, found {least} and {most}")
        torch = pytorch()
        config = _config(folder)
        self._exclusive, self._torch = KINDS[config.model_type], torch
        self._most, self._least, self._min_score, self._probabilities = most, least, min_score, probabilities
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._processor, self._model = _loaded(folder)
        self._model = self._model.to(self._device).eval()
        self.classes = tuple(config.id2label[index] for index in range(config.num_labels))
        self.width: int = config.d_model
        self.facts = {
            "detector": folder.name, "model_type": config.model_type, "weights": _digest(folder), "least": least,
            "min_score": min_score, "features": "last hidden state of the decoder's queries",
        }  # fmt: skip

    def __call__(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """The regions of RGB pictures, surest first; boxes may reach over the edge."""
        inputs = self._processor(images=list(pictures), return_tensors="pt").to(self._device)
        with self._torch.inference_mode():
            found = self._model(**inputs)
        logits, boxes, features = (
            values.float().cpu().numpy() for values in (found.logits, found.pred_boxes, found.last_hidden_state)
        )
        return [self._chosen(*rows) for rows in zip(logits, boxes, features, strict=True)]

    def _chosen(self, logits: np.ndarray, boxes: np.ndarray, features: np.ndarray) -> Regions:
        """Of one image: logits [Q, C or C + 1], boxes [Q, 4] as centre and size, features [Q, F]."""
        sure = _softmax(logits)[:, :-1] if self._exclusive else _sigmoid(logits)
        total = sure.sum(axis=1, keepdims=True)
        kept = np.divide(sure, total, out=np.zeros_like(sure), where=total > 0) if self._probabilities else None
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        corners = np.concatenate([centre - half, centre + half], axis=1)
        regions = Regions(features, corners, sure.argmax(axis=1).astype(np.int32), sure.max(axis=1), kept)
        above = int((regions.scores >= self._min_score).sum())
        return regions.best(min(max(above, self._least), self._most))


def _config(folder: Path) -> Any:
    """The configuration of a model that is known."""
    if not (folder / "config.json").is_file():
        raise AlignError(f"--detector: expected a folder with config.json of transformers, found none in {folder}")
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise AlignError(f"--detector: expected a model of transformers in {folder}, found {_line(error)}") from error
    if config.model_type not in KINDS:
        raise AlignError(
            f"--detector: expected a model of type {', '.join(KINDS)}, found {config.model_type!r} in {folder}"
        )
    return config


def _loaded(folder: Path) -> tuple[Any, Any]:
    """(image processor, model)."""
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        return processor, AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise AlignError(
            f"--detector: expected weights and preprocessor_config.json in {folder}, found {_line(error)}"
        ) from error


def _digest(folder: Path) -> str:
    """16 hexadecimal digits of all that a folder says."""
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin")):
        with path.open("rb") as file:
            found.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return found.hexdigest()


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return (0.5 * (1 + np.tanh(logits / 2))).astype(np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
