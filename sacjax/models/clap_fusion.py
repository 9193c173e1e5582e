"""CLAP's fusion of long clips (Wu et al. 2023): a shrunk view of the whole and three local ones.

Names and order follow transformers' ClapFeatureExtractor (`truncation='fusion'`) and
ClapAudioAFFBlock, the attentional feature fusion of Dai et al. 2021.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sacjax.augment.draws import integer
from sacjax.context import Context
from sacjax.layers.conv import Conv
from sacjax.layers.norm import BatchNorm

LOCAL = 3
"""Local views of a clip."""


def local_starts(
    u: Float[Array, "batch views"], frames: Int[Array, " batch"], size: int
) -> Int[Array, "batch views"]:
    """Returns the first frame of each local view: one out of each third of all that are possible.

    Where there are too few for three thirds, it is frame 0.

    Args:
      u: draws in [0, 1).
      frames: of the clips.
      size: frames of a view.
    """
    third = jnp.arange(u.shape[1])
    number = jnp.maximum(frames - size + 1, 1)[:, None]
    share, rest = number // u.shape[1], number % u.shape[1]
    first = third * share + jnp.minimum(third, rest)
    own = share + (third < rest)
    return jnp.where(own > 0, first + integer(u, jnp.maximum(own, 1)), 0)


def four_views(
    x: Float[Array, "batch frames bands"],
    frames: Int[Array, " batch"],
    starts: Int[Array, "batch views"],
    size: int,
) -> Float[Array, "batch four {size} bands"]:
    """Returns each clip shrunk to `size` frames, and its local views.

    Args:
      x: log-mel of clips of more than `size` frames; of others the views mean nothing.
      frames: valid ones of each clip.
      starts: of `local_starts`.
      size: frames of a view.
    """
    # Frame i lies at (i + 1/2) · frames / size - 1/2, in whole numbers to be exact.
    last = jnp.maximum(frames - 1, 0)[:, None]
    place = jnp.maximum((2 * jnp.arange(size) + 1) * frames[:, None] - size, 0)
    low, share = place // (2 * size), (place % (2 * size)) / (2 * size)
    take = lambda at: jnp.take_along_axis(x, jnp.clip(at, 0, last)[..., None], 1)
    shrunk = take(low) + share[..., None] * (take(low + 1) - take(low))
    local = [take(start[:, None] + jnp.arange(size)) for start in starts.T]
    return jnp.stack([shrunk, *local], 1)


class Gate(nnx.Module):
    """Two linear maps of the channels of each place, a norm after each, a ReLU between."""

    def __init__(self, width: int, inside: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes them for so many channels, and so many between."""
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.linear_in, self.linear_out = linear(width, inside), linear(inside, width)
        norm = partial(BatchNorm, dtype=dtype, rngs=rngs)
        self.norm_in, self.norm_out = norm(inside), norm(width)

    def __call__(
        self,
        x: Float[Array, "batch rows columns width"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> Float[Array, "batch rows columns width"]:
        """Returns the scores, of clips whose rows count."""
        x = nnx.relu(self.norm_in(self.linear_in(x), lengths, ctx))
        return self.norm_out(self.linear_out(x), lengths, ctx)


class Fusion(nnx.Module):
    """The stem of long clips: patches of the whole and of its local views, by learned shares."""

    def __init__(self, width: int, patch: int, reduction: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes the parameters.

        Args:
          width: channels of the patches.
          patch: cells along each side of a patch; local ones are three times as long.
          reduction: of the channels inside the gates.
          dtype: of the computation.
          rngs: of the parameters.
        """
        size = patch, LOCAL * patch
        self.embed = Conv(
            1, width, size, size, use_bias=True, padding=(0, 0), dtype=dtype, rngs=rngs
        )
        inside = width // reduction
        self.local = Gate(width, inside, dtype=dtype, rngs=rngs)
        self.whole = Gate(width, inside, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch side side width"],
        pictures: Float[Array, "batch views size size"],
        longer: Bool[Array, " batch"],
        ctx: Context,
    ) -> Float[Array, "batch side side width"]:
        """Returns the patches, fused with those of the local views where a clip is longer.

        Args:
          x: patches of the shrunk clips.
          pictures: of the local views, time along the last axis.
          longer: which clips have any.
          ctx: says by which statistics the norms work; in training those of longer clips alone.
        """
        batch, views, size, _ = pictures.shape
        flat = pictures.reshape(batch * views, size, size, 1)
        y = self.embed(flat, jnp.full(batch * views, size))[0]
        y = jnp.moveaxis(y.reshape(batch, views, *y.shape[1:]), 1, 2)  # the views side by side
        y = y.reshape(batch, y.shape[1], -1, y.shape[-1])
        y = jnp.pad(y, ((0, 0), (0, 0), (0, x.shape[2] - y.shape[2]), (0, 0)))
        both = x + y
        score = self.local(both, jnp.where(longer, x.shape[1], 0), ctx)
        mean = both.mean((1, 2), keepdims=True)
        share = jax.nn.sigmoid(score + self.whole(mean, longer.astype(jnp.int32), ctx))
        fused = 2 * x * share + 2 * y * (1 - share)
        return jnp.where(longer[:, None, None, None], fused, x)
