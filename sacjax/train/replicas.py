"""Several runs of a stage from one compilation, each with seed, data and state of its own.

A replica's step is `step.train_step`, the only one; what comes of it is what a run alone comes to,
but for the order in which sums are rounded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sacjax.train.sharding import replicated
from sacjax.train.state import TrainState, new_state, split_model
from sacjax.train.step import train_step
from sacjax.train.trainer import Trainer

How = Literal["vmap", "turns"]
Batches = Sequence[dict[str, Any]]


class Replicas(NamedTuple):
    """The functions of R replicas of a stage. Their states are one value, however they are held."""

    init: Callable[[], Any]
    """The states before the first step."""

    step: Callable[[Any, Batches], Any]
    """(states, a host batch of each replica) → states; donates the states."""

    state: Callable[[Any, int], TrainState]
    """(states, number) → the state of one replica."""

    compiled: Any
    """The jitted step."""


def make_replicas(trainer: Trainer, seeds: Sequence[int], how: How) -> Replicas:
    """Returns the functions of replicas, one for each seed.

    Args:
      trainer: of the stage, on one device; its own seed has no say.
      seeds: of parameters, dropout and augmentation, as of `make_trainer`; they may repeat.
      how: vmap: side by side in one program, which keeps an accelerator busy; turns: the program
        of one replica, for one after the other. On a CPU that is quicker: convolutions of replicas
        side by side are grouped ones (twice the time for a small ResNet), and within a loop of the
        program, as of `jax.lax.map`, XLA:CPU takes twenty times as long for them.
    """
    setup, shapes = trainer.setup, trainer.state_shapes
    # As `make_trainer` splits a seed: one for the parameters, one for the steps.
    keys = jnp.stack([jax.random.split(jax.random.key(seed)) for seed in seeds])

    def init(key: jax.Array) -> TrainState:
        _, params, buffers = split_model(setup.objective.build(nnx.Rngs(key), None))
        opt_state, options = setup.optimizer.init(params), setup.stage.optimizer
        return new_state(
            params,
            buffers,
            opt_state,
            shapes.sums,
            ema=bool(options.ema_decay),
            log_every=setup.stage.train.log_every,
        )

    def step(key: jax.Array, state: TrainState, batch: dict[str, Any]) -> TrainState:
        return train_step(dataclasses.replace(setup, key=key), state, batch)

    here = replicated(jax.tree.leaves(setup.params_at_rest)[0].mesh)
    one_init = jax.jit(init, out_shardings=here)
    states = lambda: [one_init(key) for key in keys[:, 0]]
    if how == "turns":
        one = jax.jit(step, out_shardings=here, donate_argnums=1)
        turns = lambda states, batches: list(map(one, keys[:, 1], states, batches))
        return Replicas(states, turns, lambda states, number: states[number], one)
    together = jax.jit(jax.vmap(step), out_shardings=here, donate_argnums=1)
    stacked = lambda trees: jax.device_put(jax.tree.map(lambda *x: jnp.stack(x), *trees), here)
    return Replicas(
        init=lambda: stacked(states()),
        step=lambda states, batches: together(
            keys[:, 1], states, jax.tree.map(lambda *x: np.stack(x), *batches)
        ),
        state=lambda states, number: jax.tree.map(lambda x: x[number], states),
        compiled=together,
    )
