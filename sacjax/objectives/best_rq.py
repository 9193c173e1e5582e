"""BEST-RQ (Chiu et al. 2022): tell the random code of a masked stretch of log-mel.

A frozen random matrix projects each token's log-mels to few dimensions, where the nearest of a
frozen random codebook is its code. Nothing of the targets learns, so that they cannot collapse.
Several codebooks, each with a projection of its own, steady the training (USM, Zhang et al. 2023).
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from sacjax.errors import UserError
from sacjax.models.base import Tokens
from sacjax.objectives.base import Frozen, build_encoder
from sacjax.objectives.masked import CodeOptions, MaskedCodes, check_tokens, take
from sacjax.objectives.tokens import TokenFeatures, check_aligned
from sacjax.views import View


@dataclasses.dataclass(frozen=True)
class BestRQOptions(CodeOptions):
    """`objective.options` of BEST-RQ; the defaults are those of SpeechBrain's recipe."""

    codebooks: int = 1  # each with a projection and a head; USM: 16
    codes: int = 8192  # of a codebook
    code_dim: int = 16  # to which the log-mels are projected
    stack: int = 2  # frames a token, of encoders of waveforms; spectrograms have theirs
    unit_over: Literal["token", "time"] = (
        "token"  # time: each dimension over a clip, as SpeechBrain
    )
    mask_probability: float = 0.6
    mask_span: int = 1
    mask_exact: bool = True
    mask_with: Literal["embedding", "noise"] = "embedding"  # noise: in place of the input itself
    noise_std: float = 0.1  # of that noise

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("codebooks", "codes", "code_dim", "stack", "noise_std")


class RandomProjectionQuantizer(nnx.Module):
    """Frozen random projections, each to the nearest of its frozen random codes of length 1."""

    def __init__(self, inputs: int, options: BestRQOptions, rngs: nnx.Rngs):
        """Draws projections (Xavier uniform) and codes (normal, brought to length 1)."""
        o = options
        bound = (6 / (inputs + o.code_dim)) ** 0.5
        shape = (o.codebooks, inputs, o.code_dim)
        self.projection = Frozen(
            jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        )
        codes = jax.random.normal(rngs.params(), (o.codebooks, o.codes, o.code_dim))
        self.codebook = Frozen(codes / jnp.linalg.norm(codes, axis=-1, keepdims=True))
        self.unit_over = o.unit_over

    def project(
        self, x: Float[Array, "batch tokens inputs"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch tokens books dims"]:
        """Returns the projections of each token; `lengths` are the valid tokens of each clip."""
        y = jnp.einsum("bti,gid->btgd", x, self.projection[...], precision="highest")
        if self.unit_over == "token":  # a vector's length has no say in which code is nearest
            return y
        inside = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None, None]
        square = jnp.where(inside, jnp.square(y), 0).sum(1, keepdims=True)
        return y * jax.lax.rsqrt(jnp.maximum(square, 1e-24))

    def nearest(
        self, projected: Float[Array, "batch tokens books dims"]
    ) -> Int[Array, "batch tokens books"]:
        """Returns the nearest code: the one of the largest product, as all have length 1."""
        books = self.codebook[...]
        near = jnp.einsum("btgd,gvd->btgv", projected, books, precision="highest")
        return near.argmax(-1).astype(jnp.int32)


class BestRQModel(nnx.Module):
    """Encoder, the frozen quantizer, and a linear head a codebook."""

    def __init__(self, encoder: Any, inputs: int, options: BestRQOptions, rngs: nnx.Rngs):
        """Takes an encoder of tokens and the features of a token's log-mels."""
        self.encoder = encoder
        self.quantizer = RandomProjectionQuantizer(inputs, options, rngs)
        self.head = nnx.Linear(encoder.features, options.codebooks * options.codes, rngs=rngs)


class BestRQ(MaskedCodes):
    """BEST-RQ: tell masked tokens' codes of a frozen random quantizer of log-mels."""

    Options = BestRQOptions
    options: BestRQOptions

    @functools.cached_property
    def features_of_tokens(self) -> TokenFeatures:
        """What the quantizer hears of each token."""
        return TokenFeatures(self.stage, "log_mel", self.options.stack)

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for what does not fit the encoder, its input or its augmentation."""
        self = cls(stage)
        check_tokens(stage, self.options)
        grid = self.features_of_tokens.grid
        if stage.frontend.normalize == "none":
            raise UserError(
                "frontend.normalize is 'none': the codes of log-mels that are not normalized are "
                "few; choose band, clip or global"
            )
        if self.options.targets_from == "source":
            check_aligned(stage)
        if self.options.mask_with == "noise" and grid.bands > 1:
            raise UserError(
                "objective.options.mask_with is 'noise': tokens are patches; choose embedding"
            )

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters."""
        inputs = self.features_of_tokens.size
        return BestRQModel(build_encoder(self.stage, rngs), inputs, self.options, rngs)

    def codes(self, model: Any, view: View, tokens: Tokens, positions: jax.Array) -> jax.Array:
        """Returns the codes of the tokens at positions [B, K] of a view, int32 [B, K, G]."""
        heard = self.features_of_tokens(view, tokens.features.shape[1])
        return model.quantizer.nearest(
            take(model.quantizer.project(heard, tokens.lengths), positions)
        )

    def logits(self, model: Any, frames: jax.Array) -> jax.Array:
        """Returns the logits of codes, float32 [B, K, G, V], of frames [B, K, D]."""
        o = self.options
        return model.head(frames).reshape(*frames.shape[:2], o.codebooks, o.codes)

    def corrupt(self, view: View, mask: jax.Array, keys: jax.Array) -> View | None:
        """Returns the view with noise where tokens are masked; None: by the mask embedding."""
        if self.options.mask_with == "embedding":
            return None
        x, hop = view.inputs, self.features_of_tokens.grid.hop
        token = jnp.arange(x.shape[1]) // hop
        masked = jnp.take(mask, token, axis=1, mode="fill", fill_value=False)
        masked = masked.reshape(masked.shape + (1,) * (x.ndim - 2))
        draw = lambda key: jax.random.normal(key, x.shape[1:], x.dtype)
        return view._replace(
            inputs=jnp.where(masked, self.options.noise_std * jax.vmap(draw)(keys), x)
        )
