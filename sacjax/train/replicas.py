"""Several runs of a stage in one compiled program, each with seed, data and state of its own.

A replica's step is `step.train_step`, the only one, mapped over stacked states and batches; what
comes of it is what a run alone comes to, but for the order in which sums are rounded.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sacjax.train.sharding import replicated
from sacjax.train.state import TrainState, fresh_variables, new_state
from sacjax.train.step import Trainer, train_step

How = Literal["vmap", "map"]


class Replicas(NamedTuple):
    """The compiled functions of R replicas of a stage."""

    init: Callable[[], TrainState]
    """Their states, stacked: every leaf [R, ...]."""

    step: Any
    """(states, batches), both stacked → states; donates the states."""


def make_replicas(trainer: Trainer, seeds: Sequence[int], how: How) -> Replicas:
    """Returns the functions of replicas, one for each seed.

    Args:
      trainer: of the stage, on one device; its own seed has no say.
      seeds: of parameters, dropout and augmentation, as of `make_trainer`; they may repeat.
      how: vmap: all replicas side by side, as an accelerator likes it; map: one after the other
        in a loop of the program. On a CPU that is quicker: a convolution of replicas side by side
        is a grouped one, whose backward pass XLA:CPU is slow at.
    """
    setup, shapes = trainer.setup, trainer.state_shapes
    # As `make_trainer` splits a seed: one for the parameters, one for the steps.
    keys = jnp.stack([jax.random.split(jax.random.key(seed)) for seed in seeds])

    def init(key: jax.Array) -> TrainState:
        params, buffers = fresh_variables(setup.objective.build(nnx.Rngs(key), None), None)
        opt_state, options = setup.optimizer.init(params), setup.stage.optimizer
        return new_state(
            params,
            buffers,
            opt_state,
            shapes.sums,
            ema=bool(options.ema_decay),
            log_every=setup.stage.train.log_every,
        )

    def one(key: jax.Array, state: TrainState, batch: dict[str, Any]) -> TrainState:
        return train_step(dataclasses.replace(setup, key=key), state, batch)

    def step(states: TrainState, batches: dict[str, Any]) -> TrainState:
        if how == "vmap":
            return jax.vmap(one)(keys[:, 1], states, batches)
        return jax.lax.map(lambda args: one(*args), (keys[:, 1], states, batches))

    here = replicated(jax.tree.leaves(setup.params_at_rest)[0].mesh)
    return Replicas(
        init=jax.jit(lambda: jax.lax.map(init, keys[:, 0]), out_shardings=here),
        step=jax.jit(step, out_shardings=here, donate_argnums=0),
    )


def stack(batches: Iterable[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Returns replicas' batches as one, every column [R, ...]."""
    rows = list(batches)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def unstack(states: TrainState, number: int) -> TrainState:
    """Returns the state of one replica."""
    return jax.tree.map(lambda x: x[number], states)
