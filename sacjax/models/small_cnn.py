"""The two-convolution baseline on a log spectrogram (128 × 128 in the source article; any size works)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.models.base import Conv, EncoderOutput, max_pool, require, zero_padding


class SmallCNN(nnx.Module):
    """Two 3×3 convolutions with ReLU and max pools of 2, then a dense layer over frequency in each frame."""

    input_kind = "spectrogram"

    def __init__(
        self,
        *,
        channels: tuple[int, ...] = (32, 64),
        hidden: int = 128,
        num_features: int = 128,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Args:
          channels: of the two convolutions.
          hidden: size of the dense layer.
          num_features: mel bins of the input.

        Raises:
          UserError: a size that is not positive.
        """
        require(
            len(channels) == 2 and min(channels) > 0,
            "channels",
            channels,
            "give two numbers greater than 0",
        )
        require(hidden > 0, "hidden", hidden, "it must be greater than 0")
        first, second = channels
        self.conv1 = Conv(1, first, (3, 3), use_bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(first, second, (3, 3), use_bias=True, dtype=dtype, rngs=rngs)
        self.dense = nnx.Linear(max(num_features // 4, 1) * second, hidden, dtype=dtype, rngs=rngs)
        self.features = hidden

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> EncoderOutput:
        """[B, F, M], lengths [B] → frames [B, F / 4, hidden]."""
        x = zero_padding(inputs, lengths)[..., None]
        for conv in (self.conv1, self.conv2):
            x, lengths = conv(x, lengths)
            x, lengths = max_pool(zero_padding(nnx.relu(x), lengths), lengths, 2)
        x = nnx.relu(self.dense(x.reshape(x.shape[0], x.shape[1], -1)))
        return EncoderOutput(zero_padding(x, lengths), lengths)
