"""What encoders with a Transformer share: the options of its size, and the Transformer."""

import dataclasses
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from sacjax.layers.transformer import Remat, Transformer
from sacjax.models import base


@dataclasses.dataclass(frozen=True)
class TransformerOptions(base.Options):
    """Base of the options of an encoder with a Transformer; None: as `size` says.

    A subclass gives `size` its values, and `architecture`.
    """

    size: str = "base"
    """What the options below are where they are None."""

    width: int | None = None
    """D of the frames."""

    depth: int | None = None
    """Layers."""

    heads: int | None = None
    """Of the attention."""

    mlp_width: int | None = None
    """Inside the MLP."""

    dropout: float = 0.0
    """Of the Transformer's input and of its branches."""

    attention_dropout: float = 0.0
    """Of the attention weights."""

    activation_dropout: float = 0.0
    """Inside the MLP."""

    layer_drop: float = 0.0
    """Rate at which a training step leaves a layer out (Fan et al. 2020)."""

    remat: Remat = "none"
    """What a layer's backward pass computes again to save memory."""

    @property
    def architecture(self) -> Any:
        """What the size fixes, with the options that replace it."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""
        self.require_positive("width", "depth", "heads", "mlp_width")
        self.require_rates("dropout", "attention_dropout", "activation_dropout", "layer_drop")
        a = self.architecture
        self.require(a.width % a.heads == 0, "width", f"{a.heads} heads must divide it", a.width)

    def spelled_out(self) -> dict[str, Any]:
        """Returns all options, those of the size among them, as a checkpoint tells them."""
        return dataclasses.asdict(self) | self.architecture._asdict()

    def transformer(self, *, dtype: DTypeLike, rngs: nnx.Rngs, **others: Any) -> Transformer:
        """Returns a Transformer of this size; `others` are its arguments that differ by encoder."""
        a = self.architecture
        return Transformer(
            a.width,
            a.depth,
            a.heads,
            a.mlp_width,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            layer_drop=self.layer_drop,
            remat=self.remat,
            dtype=dtype,
            rngs=rngs,
            **others,
        )
