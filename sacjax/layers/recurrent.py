"""Recurrent layers, scanned over time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float


class GRULayer(nnx.Module):
    """A layer of gated recurrent units (Cho et al. 2014), forward in time, as torch.nn.GRU.

    Gates lie side by side in PyTorch's order: reset, update, new. Inputs and states have biases of
    their own, and the reset gate multiplies the product of the state, not the state. The inputs of
    all frames are one matrix product before the scan, which then has the state's product alone.
    """

    def __init__(self, inputs: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes kernels and biases, uniform within 1 / sqrt(width) as PyTorch's.

        Args:
          inputs: features of a frame.
          width: of the state.
          dtype: of the matrix products and the result; parameters and states are float32.
          rngs: of the parameters.
        """

        def uniform(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -(width**-0.5), width**-0.5)

        make = partial(nnx.Linear, kernel_init=uniform, bias_init=uniform, dtype=dtype, rngs=rngs)
        self.input, self.state = make(inputs, 3 * width), make(width, 3 * width)
        self.width, self.dtype = width, dtype

    def start(self, batch: int) -> Float[Array, "{batch} width"]:
        """Returns the state of so many clips before their first frame: zeros."""
        return jnp.zeros([batch, self.width])

    def __call__(
        self,
        x: Float[Array, "batch frames inputs"],
        mask: Bool[Array, "batch frames"],
        state: Float[Array, "batch width"],
    ) -> tuple[Float[Array, "batch frames width"], Float[Array, "batch width"]]:
        """Returns (the state at each frame; the last one, float32).

        Args:
          x: the frames.
          mask: which of them there are; at the others the state stays what it was.
          state: before the first frame.
        """
        assert self.state.bias is not None
        kernel, bias = self.state.kernel[...].astype(self.dtype), self.state.bias[...]

        def step(state: jax.Array, frame: tuple) -> tuple[jax.Array, jax.Array]:
            heard, there = frame
            heard = heard.astype(jnp.float32)
            own = jnp.dot(state.astype(self.dtype), kernel, preferred_element_type=jnp.float32)
            heard_gates, heard_new = jnp.split(heard, [2 * self.width], -1)
            own_gates, own_new = jnp.split(own + bias, [2 * self.width], -1)
            reset, update = jnp.split(jax.nn.sigmoid(heard_gates + own_gates), 2, -1)
            new = jnp.tanh(heard_new + reset * own_new)
            state = jnp.where(there[:, None], (1 - update) * new + update * state, state)
            return state, state.astype(self.dtype)

        state, states = jax.lax.scan(step, state, (self.input(x).swapaxes(0, 1), mask.T))
        return states.swapaxes(0, 1), state
