"""What pre-training and fine-tuning of a cross-encoder share as tasks: all but what they find in some rows."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from align_jax import sharding
from align_jax.cross_encoder import CrossEncoder
from align_jax.models.blocks import in_block
from align_jax.models.randomness import row_keys
from align_jax.types import Aux, Batch, Mean, ModelState, Params, PyTree, SplitRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEncoderTask:
    """A task whose loss is a weighted sum of means, of which `sums` gives sum and count over some rows."""

    encoder: CrossEncoder
    weights: Mapping[str, float]  # of the losses, by name

    def sums(self, params: Params, model_state: ModelState, rows: Batch) -> tuple[dict[str, Mean], ModelState]:
        """Losses and other metrics over some rows, which have a "key" each, and the model state after them."""
        raise NotImplementedError

    @property
    def split(self) -> tuple[SplitRule, ...]:
        """As the config says."""
        return self.encoder.split

    @property
    def locked(self) -> tuple[str, ...]:
        """What of the towers is locked."""
        return self.encoder.locked

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        """A fresh model, for images and texts of the sizes that the task has."""
        return self.encoder.init(rng)

    def init_task_state(self, params: Params, model_state: ModelState) -> PyTree:
        """Nothing else."""
        return ()

    def loss(
        self, params: Params, model_state: ModelState, task_state: PyTree, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The weighted sum of the losses, each the mean over what it counts in all N rows."""
        rows = dict(batch) | {"key": row_keys(rng, batch["text_ids"].shape[0])}
        metrics, new_state = per_device(self.encoder, self.sums, params, model_state, rows)
        losses = [
            self.weights[name] * metrics[name].total / jnp.maximum(metrics[name].count, 1.0)
            for name in self.weights if name in metrics
        ]  # fmt: skip
        loss = jnp.sum(jnp.stack(losses))
        return loss, Aux(new_state, task_state, {"loss": Mean(loss, jnp.ones_like(loss))} | metrics)

    def functions(self) -> dict[str, Callable[[Params, ModelState, Batch], jax.Array]]:
        """See `CrossEncoder.functions`."""
        return self.encoder.functions()


def per_device(
    encoder: CrossEncoder,
    part: Callable[[Params, ModelState, Batch], tuple[dict[str, Mean], ModelState]],
    params: Params,
    model_state: ModelState,
    rows: Batch,
) -> tuple[dict[str, Mean], ModelState]:
    """(sums over all rows, the model state after them) of what `part` finds in some, each device taking its own.

    In micro-batches, one after the other, whose sums add up; all start from the same state.
    """

    def own(shared: tuple[Params, ModelState], rows: Batch) -> tuple[tuple[()], tuple[dict[str, Mean], ModelState]]:
        some = functools.partial(part, *shared)
        if encoder.micro_batches == 1:
            sums, state = some(rows)
        else:
            micro = jax.tree.map(lambda x: x.reshape(encoder.micro_batches, -1, *x.shape[1:]), dict(rows))
            sums, states = jax.lax.map(jax.checkpoint(some), micro)
            sums, state = jax.tree.map(lambda x: x.sum(0), sums), jax.tree.map(lambda x: x.mean(0), states)
        return (), (sharding.total(sums), sharding.mean(state))

    later = in_block if encoder.gather == "block" else None
    run = sharding.per_device(own, rules=encoder.split, later=later, reduce=encoder.gradient_dtype)
    _, (sums, state) = run((params, model_state), rows)
    return sums, state if encoder.batch_statistics else model_state
