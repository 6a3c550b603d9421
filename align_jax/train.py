"""THE loop. It knows a Task, an Optimizer and Evaluators; no model, no loss, no data format."""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from align_jax import sharding
from align_jax.checkpoint import Checkpoints
from align_jax.metrics import Recorder
from align_jax.optim import Optimizer
from align_jax.state import TrainState
from align_jax.types import Batch, Mean, PyTree, Result, Task


def train(
    state: TrainState,
    *,
    task: Task,
    optimizer: Optimizer,
    batches: Callable[[int], Iterator[Batch]],
    evaluate: Callable[[int, TrainState], list[Result]],
    checkpoints: Checkpoints,
    config: Mapping[str, Any],
    recorder: Recorder,
    stop: Callable[[int], bool],
    finished: Callable[[int, Mapping[str, Mean], jax.Array], None],
    steps: int,
    ahead: int,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """Trains from `state.step` to `steps` under `mesh`; returns the last state, saved.

    `batches(step)` yields this process's rows from that step on. `evaluate(step, state)`, asked after each, returns the
    results of whatever is due then, mostly nothing; what comes after the last step is left to the caller.
    The host runs up to `ahead` steps before the devices: it copies their batches while earlier steps compute.
    `stop(step)`, asked before each, ends the run early; `finished(step, metrics, norms)` hears of each in its turn.
    """
    train_step = jitted(task, optimizer, state, mesh)
    start = int(state.step)
    stream = batches(start)
    running: deque[tuple[int, Mapping[str, Mean], jax.Array]] = deque()
    for step in range(start, steps):
        # The order matters: evaluate and save what stands, and only then draw the next batch, so that a run that
        # dies anywhere resumes at the batch that it had not yet finished.
        if step > start and (results := evaluate(step, state)):
            checkpoints.judge(step, results)
        if stop(step):
            break
        if step > start and checkpoints.due(step):
            with recorder.aside("save"):
                checkpoints.save(state, dict(config))
        with recorder.waiting():
            rows = next(stream)
        batch = sharding.place(mesh, rows)
        with jax.transfer_guard("disallow"):  # an implicit transfer here would cost every step
            state, metrics, norms = train_step(state, batch)
        recorder.step(step + 1, metrics)  # writes the metrics of the step before; this one is still running
        running.append((step + 1, metrics, norms))
        if len(running) > ahead:  # more would fill the devices with batches
            finished(*running.popleft())
    for outcome in running:
        finished(*outcome)
    with recorder.aside("save"):
        checkpoints.save(state, dict(config))
        checkpoints.wait()
    return state


def jitted(task: Task, optimizer: Optimizer, state: TrainState, mesh: jax.sharding.Mesh) -> Any:
    """The compiled form of `step_fn`, for states like `state` (or its shapes), whose memory it takes for the new one.

    The state leaves a step as it entered it: a sharding that the compiler chose would compile the second step anew.
    """
    everywhere = sharding.replicated(mesh)
    shardings = (jax.tree.map(lambda x: x.sharding, state), everywhere, everywhere)
    return jax.jit(functools.partial(step_fn, task, optimizer), donate_argnums=0, out_shardings=shardings)


def step_fn(
    task: Task, optimizer: Optimizer, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, Mean], jax.Array]:
    """One step: (state, metrics, f32 norm of the gradient of each trained parameter, in the order of their tree).

    A loss or gradient that is not finite leaves all but the step count as it was (design decision 7).
    """
    rng = jax.random.fold_in(state.rng, state.step)
    (loss, aux), gradients = optimizer.value_and_grad(task.loss)(
        state.params, state.model_state, state.task_state, batch, rng, state.step
    )
    squares = [jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(gradients)]
    norm = jnp.sqrt(sum(squares))
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    params, opt_state = optimizer.update(gradients, state.opt_state, state.params, state.step)

    def kept(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    new_state = TrainState(
        step=state.step + 1,
        params=kept(params, state.params),
        model_state=kept(optimizer.keep_frozen(state.model_state, aux.model_state), state.model_state),
        task_state=kept(aux.task_state, state.task_state),
        opt_state=kept(opt_state, state.opt_state),
        rng=state.rng,
    )
    one = jnp.ones((), jnp.float32)
    own = {
        "learning_rate": optimizer.learning_rate(state.step),
        "gradient_norm": norm,
        "non_finite_steps": 1.0 - finite.astype(jnp.float32),
    }
    metrics = dict(aux.metrics) | {name: Mean(value, one) for name, value in own.items()}
    return new_state, metrics, jnp.sqrt(jnp.stack(squares))
