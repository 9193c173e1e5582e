"""The two-convolution baseline on a log spectrogram (128 × 128 in the source article)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import Conv, zero_padding
from sacjax.layers.pooling import max_pool
from sacjax.models import base


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
    """`model.encoder` of `model.name = 'small_cnn'`."""

    channels: tuple[int, ...] = (32, 64)
    """Of the two convolutions."""

    hidden: int = 128
    """Size of the dense layer, D of the frames."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        two = len(self.channels) == 2 and min(self.channels) > 0
        self.require(two, "channels", "give two positive numbers")
        self.require_positive("hidden")


class SmallCNN(base.Encoder):
    """CNN on the spectrogram: two convolutions with max pools, a dense layer in each frame."""

    Options = Options
    input_kind = "spectrogram"

    def __init__(
        self,
        *,
        num_features: int = 128,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Makes fresh parameters; see `Options`."""
        o = Options(**options)
        first, second = o.channels
        self.conv1 = Conv(1, first, (3, 3), use_bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(first, second, (3, 3), use_bias=True, dtype=dtype, rngs=rngs)
        inputs = max(num_features // 4, 1) * second
        self.dense = nnx.Linear(inputs, o.hidden, dtype=dtype, rngs=rngs)
        self.features = o.hidden

    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, one for every 4 of the spectrogram."""
        x = zero_padding(inputs, lengths)[..., None]
        for conv in (self.conv1, self.conv2):
            x, lengths = conv(x, lengths)
            x, lengths = max_pool(zero_padding(nnx.relu(x), lengths), lengths, 2)
        x = nnx.relu(self.dense(x.reshape(x.shape[0], x.shape[1], -1)))
        return base.EncoderOutput(zero_padding(x, lengths), lengths)
