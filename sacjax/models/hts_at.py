"""HTS-AT (Chen et al. 2022), a Swin Transformer on ten seconds of log-mel: CLAP's audio tower.

Parameters and order follow transformers' ClapAudioModel, so that its weights fit; see
`sacjax.convert.clap`. The log-mel is cut in time, and its parts lie one above the other, so that
the picture is a square.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.activation import gelu
from sacjax.layers.conv import Conv
from sacjax.layers.dropout import DropPath, drop
from sacjax.layers.norm import BatchNorm, LayerNorm
from sacjax.layers.similarity import NEVER
from sacjax.layers.transformer import NORMAL
from sacjax.models import base
from sacjax.models.clap_fusion import LOCAL, Fusion, four_views, local_starts
from sacjax.parts import part

SILENCE = -100.0
"""Decibels of a silent frame, as CLAP's front end gives it."""

FUSION_DRAW = 1 << 16
"""Of a call, beyond those of the blocks."""


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
    """`model.encoder` of `model.name = 'hts_at'`."""

    width: int = 96
    """Channels of the first stage, which double from one to the next; published: 96 or 128."""

    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage; an even number, as every other one shifts its windows."""

    heads: tuple[int, ...] = (4, 8, 16, 32)
    """Of each stage's attention."""

    mlp_ratio: float = 4.0
    """Width inside the MLP, of the stage's."""

    window: int = 8
    """Patches along each side of a window of attention."""

    patch: int = 4
    """Cells of the picture along each side of a patch."""

    picture: int = 256
    """Cells along each side of the picture; the mel bins divide it."""

    max_frames: int = 1001
    """Frames of the log-mel, 10 s, which are stretched to the picture; a shorter clip is repeated
    as often as it fits, and followed by silence."""

    fusion: bool = False
    """Whether longer clips are heard whole: shrunk to these frames, and fused with a stretch out of
    each of their thirds, a random one in training, else the middle one (Wu et al. 2023)."""

    fusion_reduction: int = 4
    """Channels of the patches, over those inside the gates of the fusion."""

    qkv_bias: bool = True
    """Whether queries, keys and values have biases."""

    dropout: float = 0.0
    """After the attention and the MLP."""

    attention_dropout: float = 0.0
    """Of the attention weights."""

    stochastic_depth: float = 0.0
    """Rate of the last block's attention; it grows linearly from the first, which is never
    dropped."""

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""
        self.require_positive("width", "mlp_ratio", "window", "patch", "picture", "max_frames")
        narrow = 0 < self.fusion_reduction <= self.width
        self.require(narrow, "fusion_reduction", f"give a number from 1 to {self.width}")
        count = len(self.depths)
        good = count > 0 and min(self.depths) > 0 and len(self.heads) == count
        self.require(good, "depths", "give as many positive numbers as of heads", self.depths)
        for k, heads in enumerate(self.heads):
            fits = heads > 0 and (self.width << k) % heads == 0
            self.require(fits, "heads", f"they must divide {self.width << k}", heads)
        grid = self.picture // self.patch
        whole = self.picture % self.patch == 0 and grid % (1 << (count - 1)) == 0
        self.require(whole, "picture", "patch and the halvings between stages must divide it")
        for k in range(count):
            side = grid >> k
            fits = side % min(self.window, side) == 0
            self.require(fits, "window", f"it must divide the {side} patches of stage {k + 1}")
        self.require_rates("dropout", "attention_dropout", "stochastic_depth")


class WindowAttention(nnx.Module):
    """Attention within windows, with a learned score for each relative position."""

    def __init__(
        self, width: int, heads: int, window: int, o: Options, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        """Makes the four linear maps and the table."""
        make = partial(nnx.Linear, width, width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        three = partial(make, use_bias=o.qkv_bias)
        self.query, self.key, self.value, self.out = three(), three(), three(), make()
        self.table = nnx.Param(NORMAL(rngs.params(), [(2 * window - 1) ** 2, heads]))
        self.heads, self.window, self.dropout = heads, window, o.attention_dropout

    def __call__(
        self,
        x: Float[Array, "batch windows tokens width"],
        apart: Bool[np.ndarray, "windows tokens tokens"] | None,
        ctx: Context,
    ) -> Float[Array, "batch windows tokens width"]:
        """Returns what each token gathers from its window.

        Args:
          x: the windows' tokens.
          apart: pairs that are no neighbours, in windows of a shifted picture.
          ctx: of this call.
        """
        q, k, v = (
            linear(x).reshape(*x.shape[:3], self.heads, -1)
            for linear in (self.query, self.key, self.value)
        )
        scores = jnp.einsum("bwthd,bwshd->bwhts", q, k, preferred_element_type=jnp.float32)
        scores = scores * q.shape[-1] ** -0.5
        scores = scores + jnp.moveaxis(self.table[...][relative_index(self.window)], -1, 0)
        if apart is not None:
            scores = jnp.where(apart[:, None], NEVER, scores)
        weights = drop(jax.nn.softmax(scores, -1).astype(v.dtype), self.dropout, ctx.rng(0))
        return self.out(jnp.einsum("bwhts,bwshd->bwthd", weights, v).reshape(x.shape))


class Block(nnx.Module):
    """Attention within windows and MLP, each a residual branch with a norm before it."""

    def __init__(
        self,
        width: int,
        heads: int,
        side: int,
        shifted: bool,
        rate: float,
        o: Options,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a block of a stage with `side` patches along each side."""
        self.window = min(o.window, side)
        self.shift = o.window // 2 if shifted and side > o.window else 0
        norm = partial(LayerNorm, width, dtype=dtype, rngs=rngs)
        linear = partial(nnx.Linear, kernel_init=NORMAL, dtype=dtype, rngs=rngs)
        inside = int(o.mlp_ratio * width)
        self.attention = WindowAttention(width, heads, self.window, o, dtype=dtype, rngs=rngs)
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.mlp_in, self.mlp_out = linear(width, inside), linear(inside, width)
        self.dropout, self.drop = o.dropout, DropPath(rate)

    def __call__(
        self, x: Float[Array, "batch side side width"], ctx: Context
    ) -> Float[Array, "batch side side width"]:
        """Returns the patches after the block."""
        y = jnp.roll(self.attention_norm(x), (-self.shift, -self.shift), (1, 2))
        apart = shifted_apart(x.shape[1], self.window, self.shift) if self.shift else None
        y = self.attention(windows_of(y, self.window), apart, ctx.child(0))
        y = drop(y, self.dropout, ctx.rng(1))
        y = jnp.roll(joined(y, x.shape[1], self.window), (self.shift, self.shift), (1, 2))
        x = x + self.drop(y, ctx.rng(2))
        y = self.mlp_out(gelu(self.mlp_in(self.mlp_norm(x))))
        return x + drop(y, self.dropout, ctx.rng(3))


class Merge(nnx.Module):
    """Four patches become one, of twice the channels."""

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes the norm and the linear map."""
        self.norm = LayerNorm(4 * width, dtype=dtype, rngs=rngs)
        make = partial(nnx.Linear, use_bias=False, kernel_init=NORMAL, dtype=dtype, rngs=rngs)
        self.reduction = make(4 * width, 2 * width)

    def __call__(
        self, x: Float[Array, "batch side side width"]
    ) -> Float[Array, "batch half half double"]:
        """Returns the merged patches."""
        four = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.reduction(self.norm(jnp.concatenate(four, -1)))


class HTSAT(base.Encoder):
    """HTS-AT, CLAP's audio tower: a Swin Transformer on 10 s of log-mel."""

    Options = Options
    input_kind = "spectrogram"

    def __init__(
        self,
        *,
        num_features: int = 64,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Makes fresh parameters; see `Options`."""
        o = Options(**options)
        if o.picture % num_features:
            raise UserError(
                f"model.encoder.picture is {o.picture}: {num_features} mel bins must divide it"
            )
        self.batch_norm = BatchNorm(num_features, dtype=dtype, rngs=rngs)
        size = (o.patch, o.patch)
        self.embed = Conv(
            1, o.width, size, o.patch, use_bias=True, padding=(0, 0), dtype=dtype, rngs=rngs
        )
        fuse = partial(Fusion, o.width, o.patch, o.fusion_reduction, dtype=dtype, rngs=rngs)
        self.fusion = fuse() if o.fusion else None
        self.embed_norm = LayerNorm(o.width, dtype=dtype, rngs=rngs)
        number, last, stages = 0, max(sum(o.depths) - 1, 1), []
        for k, (depth, heads) in enumerate(zip(o.depths, o.heads, strict=True)):
            make = partial(Block, o.width << k, heads, o.picture // o.patch >> k, o=o)
            rates = [o.stochastic_depth * (number + j) / last for j in range(depth)]
            blocks = [
                make(shifted=j % 2 == 1, rate=rate, dtype=dtype, rngs=rngs)
                for j, rate in enumerate(rates)
            ]
            stages.append(nnx.List(blocks))
            number += depth
        self.stages = nnx.List(stages)
        merge = partial(Merge, dtype=dtype, rngs=rngs)
        self.merges = nnx.List([merge(o.width << k) for k in range(len(o.depths) - 1)])
        self.features = o.width << (len(o.depths) - 1)
        self.norm = LayerNorm(self.features, dtype=dtype, rngs=rngs)
        self.settings, self.num_features = o, num_features

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, as published 32 of every clip, whatever its length.

        Raises:
          UserError: more frames than `max_frames`, without `fusion`.
        """
        o = self.settings
        if inputs.shape[1] > o.max_frames and not o.fusion:
            raise UserError(
                f"model.encoder.max_frames is {o.max_frames}, but the input has {inputs.shape[1]} "
                "frames: shorten data.seconds, 10 at the published size"
            )
        x = self.embed_norm(self.patches(inputs, lengths, ctx))
        x, number = drop(x, o.dropout, ctx.rng(0)), 1
        for k, stage in enumerate(self.stages):
            for block in stage:
                x = block(x, ctx.child(number))
                number += 1
            x = x if k == len(self.merges) else self.merges[k](x)
        x = self.norm(x)
        parts = o.picture // self.num_features  # one above the other, each of some bands
        x = x.reshape(x.shape[0], parts, -1, *x.shape[2:]).mean(2)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.where((lengths > 0)[:, None, None], x, 0)
        return base.EncoderOutput(x, jnp.where(lengths > 0, x.shape[1], 0))

    def patches(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> Float[Array, "batch side side width"]:
        """Returns the patches of each clip's picture, of a longer one those of all its views."""
        o, longer = self.settings, lengths > self.settings.max_frames
        views = repeated(inputs, jnp.minimum(lengths, o.max_frames), o.max_frames)[:, None]
        if self.fusion is not None and inputs.shape[1] > o.max_frames:
            key, shape = ctx.rng(FUSION_DRAW), (len(lengths), LOCAL)
            u = jnp.full(shape, 0.5) if key is None else jax.random.uniform(key, shape)
            starts = local_starts(u, lengths, o.max_frames)
            four = four_views(inputs, lengths, starts, o.max_frames)
            views = jnp.where(longer[:, None, None, None], four, views)
        number = views.shape[1]
        x = views.reshape(-1, *views.shape[2:])
        full = jnp.repeat(jnp.where(lengths > 0, o.max_frames, 0), number)
        x = square(self.batch_norm(x, full, ctx), o.picture)
        x = x.reshape(-1, number, o.picture, o.picture)
        whole = self.embed(x[:, 0, ..., None], jnp.full_like(lengths, o.picture))[0]
        if self.fusion is None or number == 1:
            return whole
        return self.fusion(whole, x[:, 1:], longer, ctx)


def repeated(
    x: Float[Array, "batch frames bands"], lengths: Int[Array, " batch"], size: int
) -> Float[Array, "batch {size} bands"]:
    """Returns each clip as often as it fits into so many frames whole, then silence."""
    place, whole = jnp.arange(size), jnp.maximum(lengths, 1)[:, None]
    y = jnp.take_along_axis(x, (place % whole)[..., None], 1)
    return jnp.where((place < size // whole * whole)[..., None], y, SILENCE)


def square(x: Float[Array, "batch frames bands"], size: int) -> Float[Array, "batch {size} {size}"]:
    """Returns a log-mel stretched in time and cut, its parts one above the other, bands upwards."""
    batch, frames, bands = x.shape
    parts = size // bands
    stretch = jnp.asarray(bicubic(frames, size * parts))
    x = jnp.einsum("ts,bsf->btf", stretch, x, precision="highest")
    return x.reshape(batch, parts, size, bands).swapaxes(2, 3).reshape(batch, size, size)


def bicubic(inputs: int, outputs: int) -> Float32[np.ndarray, "outputs inputs"]:
    """Returns the matrix of a cubic interpolation whose ends stay where they are.

    As PyTorch's `interpolate` with align_corners: Keys's kernel of a = -0.75, the ends repeated.

    Args:
      inputs: how many values.
      outputs: of what comes out; no less than 2.
    """
    if inputs == outputs:
        return np.eye(inputs, dtype=np.float32)
    place = np.arange(outputs) * (inputs - 1) / (outputs - 1)
    low = np.floor(place).astype(int)
    matrix, a = np.zeros([outputs, inputs]), -0.75
    for step in (-1, 0, 1, 2):
        d = np.abs(place - low - step)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        column = np.clip(low + step, 0, inputs - 1)
        np.add.at(matrix, (np.arange(outputs), column), np.where(d <= 1, near, far))
    return matrix.astype(np.float32)


def windows_of(
    x: Float[Array, "batch side side width"], size: int
) -> Float[Array, "batch windows tokens width"]:
    """Returns the windows, row by row, and in each its patches, row by row."""
    batch, side, _, width = x.shape
    x = x.reshape(batch, side // size, size, side // size, size, width).swapaxes(2, 3)
    return x.reshape(batch, -1, size * size, width)


def joined(
    x: Float[Array, "batch windows tokens width"], side: int, size: int
) -> Float[Array, "batch {side} {side} width"]:
    """Returns the picture of which `windows_of` made windows."""
    count = side // size
    x = x.reshape(x.shape[0], count, count, size, size, -1).swapaxes(2, 3)
    return x.reshape(x.shape[0], side, side, -1)


def relative_index(size: int) -> Int[np.ndarray, "tokens tokens"]:
    """Returns the row of the table for each pair of a window's patches, queries first (Swin)."""
    rows, columns = np.divmod(np.arange(size * size), size)
    down, right = (v[:, None] - v[None] + size - 1 for v in (rows, columns))
    return down * (2 * size - 1) + right


def shifted_apart(side: int, window: int, shift: int) -> Bool[np.ndarray, "windows tokens tokens"]:
    """Returns which pairs of a window lie on two sides of the picture, before it was shifted."""
    place = np.arange(side)
    region = (place >= side - window).astype(int) + (place >= side - shift)
    cells = (region[:, None] * 3 + region).reshape(side // window, window, side // window, window)
    cells = cells.swapaxes(1, 2).reshape(-1, window * window)
    return cells[:, :, None] != cells[:, None]
