"""Two convolutions on a log spectrogram: the source article's baseline, and BYOL-A's encoder."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import Conv, zero_padding
from sacjax.layers.dropout import drop
from sacjax.layers.norm import BatchNorm
from sacjax.layers.pooling import max_pool
from sacjax.layers.tap import tap
from sacjax.models import base
from sacjax.parts import part

DROPOUT = 0.3  # rate of byol_a, between its dense layers


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
    """`model.encoder` of `model.name = 'small_cnn'`."""

    variant: Literal["article", "byol_a"] = "article"
    """article: a dense layer in each frame; byol_a: as AudioNTT2022 (Niizumi et al. 2023) batch
    norms, two dense layers with dropout of 0.3 between, and the convolutions' features beside."""

    channels: tuple[int, ...] = (32, 64)
    """Of the two convolutions."""

    hidden: int = 128
    """Size of a dense layer; D of the frames, but for what byol_a adds."""

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
        self.features, byol_a = o.hidden, o.variant == "byol_a"
        self.bn1 = BatchNorm(first, dtype=dtype, rngs=rngs) if byol_a else None
        self.bn2 = BatchNorm(second, dtype=dtype, rngs=rngs) if byol_a else None
        self.dense2 = nnx.Linear(o.hidden, o.hidden, dtype=dtype, rngs=rngs) if byol_a else None
        if byol_a:
            self.features += inputs

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, one for every 4 of the spectrogram."""
        x = zero_padding(inputs, lengths)[..., None]
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2)):
            x, lengths = conv(x, lengths)
            x = x if norm is None else norm(x, lengths, ctx)
            x, lengths = max_pool(zero_padding(nnx.relu(x), lengths), lengths, 2)
        convolved = tap(x).reshape(x.shape[0], x.shape[1], -1)
        x = nnx.relu(self.dense(convolved))
        if self.dense2 is not None:
            x = nnx.relu(self.dense2(drop(x, DROPOUT, ctx.rng(0))))
            x = jnp.concatenate([convolved, x], -1)
        return base.EncoderOutput(zero_padding(x, lengths), lengths)
