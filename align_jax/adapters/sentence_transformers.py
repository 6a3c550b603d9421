"""A model of ours for callers of sentence-transformers: `encode` and what its evaluators and utilities ask besides.

from align_jax.adapters.sentence_transformers import SentenceEncoder
encoder = SentenceEncoder(align_jax.load("runs/demo"))
hits = sentence_transformers.util.semantic_search(encoder.encode("a red apple"), encoder.encode(pictures))
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from align_jax import inputs as pictures
from align_jax.adapters.pytorch import pytorch
from align_jax.model import Model
from align_jax.types import AlignError

if TYPE_CHECKING:
    import torch

KINDS = ("text", "image")


class SentenceEncoder:
    """The shape of `sentence_transformers.SentenceTransformer` (6.2) over a model of ours.

    An input is a str, which is a text; a picture (`os.PathLike`, bytes, PIL image, array uint8 [H, W, 3]); or
    {"text": str}, {"image": picture or its path as a str}. One call may mix them.

    Attributes:
      prompts: by name, what `encode` puts before texts; "query" and "document" are those of `encode_query` and
        `encode_document`.
      similarity_fn_name: "cosine".
      model_card_data: what keeps the metrics of an evaluator.
    """

    similarity_fn_name = "cosine"

    def __init__(self, model: Model, *, prompts: Mapping[str, str] | None = None):
        self.model, self.prompts = model, dict(prompts or {})
        self.model_card_data = ModelCardData()

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Embeddings f32 [n, D] of a list of inputs, [D] of one alone, [0] of an empty list.

        Args:
          inputs: one, or several in order.
          prompt, prompt_name: what stands before each text, or its name in `prompts`; of the two, `prompt` counts.
          convert_to_numpy, convert_to_tensor: an array, or a tensor on the CPU, which goes first; without both, a list
            of tensors.
          truncate_dim: how many of the first numbers stay. normalize_embeddings: whether rows then have length 1; rows
            that are not cut have it already.
          show_progress_bar: False for none; else there is one where it takes long.
          batch_size, device, chunk_size: taken and not used: the model has batches and devices of its own, and a row
            does not depend on them.
          output_value, precision, pool: of each, the default is all there is.

        Raises:
          AlignError, BadExample: as `Model.embed_texts` and `Model.embed_images`; for a prompt that has no such name;
            for what SentenceTransformer knows and this does not.
        """
        refused = {
            "output_value": (output_value, "sentence_embedding"),
            "precision": (precision or "float32", "float32"),
        }
        for name, (found, only) in (refused | {"pool": (pool, None)}).items():
            if found != only:
                raise AlignError(f"encode: expected {name}={only!r}, all that a model of ours has, found {found!r}")
        one = _is_one(inputs)
        kinds = [_kind(index, given) for index, given in enumerate([inputs] if one else inputs)]
        if not kinds:
            rows = np.array([], np.float32)
        else:
            rows = self._rows(kinds, self._prompt(prompt, prompt_name), progress=show_progress_bar is not False)
            rows = rows[:, :truncate_dim]
            if normalize_embeddings and truncate_dim is not None:
                rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        rows = rows[0] if one else rows
        if convert_to_tensor:
            return pytorch().from_numpy(rows)
        if convert_to_numpy:
            return rows
        return pytorch().from_numpy(rows) if one else list(pytorch().from_numpy(rows))

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        """`encode` with the prompt "query", where there is one and the caller names none."""
        return self.encode(inputs, **self._named("query", options))

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        """`encode` with the prompt "document", where there is one and the caller names none."""
        return self.encode(inputs, **self._named("document", options))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Cosines [n, m] of the rows of two tensors or arrays [n, D], [m, D]."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Cosines [n] of the rows of two tensors or arrays [n, D], row by row."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.model.embedding_size

    def get_sentence_embedding_dimension(self) -> int:
        """D."""
        return self.model.embedding_size

    def get_max_seq_length(self) -> int:
        """Word pieces of a text."""
        return self.model.text_length

    @property
    def max_seq_length(self) -> int:
        """Word pieces of a text."""
        return self.model.text_length

    @property
    def device(self) -> "torch.device":
        """Where tensors are that it gives: the CPU, wherever jax computes."""
        return pytorch().device("cpu")

    def eval(self) -> "SentenceEncoder":
        """Itself: it is always in inference mode."""
        return self

    def _rows(self, kinds: list[tuple[str, Any]], prompt: str, *, progress: bool) -> np.ndarray:
        rows = np.zeros((len(kinds), self.get_embedding_dimension()), np.float32)
        texts = [place for place, (kind, _) in enumerate(kinds) if kind == "text"]
        images = [place for place, (kind, _) in enumerate(kinds) if kind == "image"]
        if texts:
            given = [prompt + kinds[place][1] if prompt else kinds[place][1] for place in texts]
            rows[texts] = self.model.embed_texts(given, progress=progress)
        if images:
            rows[images] = self.model.embed_images([kinds[place][1] for place in images], progress=progress)
        return rows

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None or name is None:
            return prompt or ""
        if name not in self.prompts:
            raise AlignError(f"prompt_name: expected one of {sorted(self.prompts)}, found {name!r}")
        return self.prompts[name]

    def _named(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        chosen = options.get("prompt") is not None or options.get("prompt_name") is not None
        return options if chosen or name not in self.prompts else options | {"prompt_name": name}


class ModelCardData:
    """What evaluators of sentence-transformers tell of their results: `metrics`, by the evaluator's name."""

    def __init__(self) -> None:
        self.metrics: dict[str, dict[str, Any]] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Keeps the last metrics of an evaluator."""
        self.metrics[getattr(evaluator, "name", "") or type(evaluator).__name__] = dict(metrics)


def _is_one(given: Any) -> bool:
    """Whether it is an input, and not several."""
    return pictures.is_picture(given) or isinstance(given, Mapping) or not isinstance(given, Iterable)


def _kind(index: int, given: Any) -> tuple[str, Any]:
    """("text" or "image", it)."""
    if isinstance(given, Mapping):
        if len(given) != 1 or next(iter(given)) not in KINDS:
            raise AlignError(f"input {index}: expected {{'text': ..}} or {{'image': ..}}, found keys {sorted(given)}")
        return next(iter(given.items()))
    return ("text", given) if isinstance(given, str) else ("image", pictures.picture(index, given))


def _unit(rows: Any) -> "torch.Tensor":
    """Rows of length 1, [1, D] of [D]."""
    torch = pytorch()
    found = torch.from_numpy(np.ascontiguousarray(rows)) if isinstance(rows, np.ndarray) else rows
    return torch.nn.functional.normalize(torch.atleast_2d(found), dim=-1)
