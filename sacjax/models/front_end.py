"""Encoders of spectrograms behind a front end that learns: `model.frontend`.

Such an encoder takes the waveform, whatever it took before. Its front end is a part of it,
`encoder.front_end`, so that it is saved, loaded, averaged and frozen with the encoder. What
`augment.spectrogram` lists happens to the learned features, inside the model, in training; but not
what mixes clips, as labels are mixed before the model: that goes into `augment.waveform`.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from sacjax import augment, frontend
from sacjax.augment.draws import example_keys
from sacjax.config import options
from sacjax.context import Context
from sacjax.errors import UserError, nearest
from sacjax.frontend.learnable import FRONT_ENDS, FrontEnd
from sacjax.layers.transformer import States
from sacjax.models.base import Encoder, EncoderOutput, TokenEncoder, Tokens

DRAW = 1 << 16
"""Folded into a call's key, apart from the draws of the encoder."""


class Hearing(Encoder):
    """What a front end adds to an encoder of spectrograms. It comes before the encoder's class."""

    input_kind = "waveform"
    front_end: FrontEnd
    masks: tuple[tuple[tuple[str, Any], ...], ...]
    """The options of each spectrogram augmentation, in order."""

    def __init__(self, *, front_end: FrontEnd, masks: Any, **options: Any):
        """Makes the encoder as it is without.

        Args:
          front_end: whose features it hears.
          masks: of `augment.spectrogram`.
          options: of the encoder's class.
        """
        super().__init__(**options)
        self.front_end = front_end
        self.masks = tuple(tuple(sorted(dict(spec).items())) for spec in masks)

    def hear(
        self, audio: Float[Array, "batch samples"], lengths: Int[Array, " batch"], ctx: Context
    ) -> tuple[Float[Array, "batch frames bands"], Int[Array, " batch"]]:
        """Returns (features, in training masked; valid frames, of an empty clip none).

        Args:
          audio: in [-1, 1].
          lengths: valid samples.
          ctx: of this call.
        """
        x, frames = self.front_end(audio, lengths)
        frames = jnp.where(lengths > 0, frames, 0)  # else batch norms would count rows of padding
        key = ctx.rng(DRAW)
        if key is None or not self.masks:
            return x, frames
        rows = jnp.arange(len(x))
        x, frames, _ = augment.apply(
            [dict(spec) for spec in self.masks],
            example_keys(key, rows),
            x,
            frames,
            jnp.zeros([len(x), 1]),
            jnp.ones(len(x)),
            kind="spectrogram",
            sample_rate=self.front_end.sample_rate,
        )
        return x, frames

    def __call__(
        self,
        inputs: Float[Array, "batch samples"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> EncoderOutput:
        """Returns the frames of a batch of waveforms."""
        return super().__call__(*self.hear(inputs, lengths, ctx), ctx)


class TokenHearing(Hearing, TokenEncoder):
    """`Hearing` for an encoder of tokens."""

    def tokens(
        self, inputs: Float[Array, "batch samples"], lengths: Int[Array, " batch"]
    ) -> Tokens:
        """Returns the tokens of a batch of waveforms, without masks."""
        return super().tokens(*self.hear(inputs, lengths, Context()))

    def __call__(
        self,
        inputs: Float[Array, "batch samples"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
        hidden_states: States = False,
    ) -> EncoderOutput:
        """Returns the frames of a batch, and the states of the stack where asked for."""
        tokens = super().tokens(*self.hear(inputs, lengths, ctx))
        return self.context(tokens, ctx, hidden_states=hidden_states)


@functools.cache
def hearing(encoder: type[Encoder]) -> type[Encoder]:
    """Returns an encoder's class with a front end before it; parameters keep their names."""
    mixin = TokenHearing if issubclass(encoder, TokenEncoder) else Hearing
    return type(f"Hearing{encoder.__name__}", (mixin, encoder), {})


def learns(model: ConfigDict) -> bool:
    """Whether the configured front end has parameters."""
    return model.get("frontend", "mel") != "mel"


def build(encoder: type[Encoder], stage: ConfigDict, **options: Any) -> Encoder:
    """Returns an encoder behind the front end that a stage names.

    Args:
      encoder: of spectrograms.
      stage: the config of one stage.
      options: of the encoder's class.
    """
    kind = FRONT_ENDS[stage.model.frontend]
    made = kind(
        frontend.Options(**stage.frontend.to_dict()),
        stage.data.sample_rate,
        kind.Options(**_options(stage.model)),
    )
    return hearing(encoder)(front_end=made, masks=stage.augment.spectrogram, **options)


def _options(model: ConfigDict) -> dict[str, Any]:
    return ConfigDict(model.get("frontend_options", {})).to_dict()


def check(model: ConfigDict, encoder: type[Encoder]) -> None:
    """Raises UserError for an unknown front end, its options, or an encoder of waveforms."""
    name, given = model.get("frontend", "mel"), _options(model)
    if name != "mel" and name not in FRONT_ENDS:
        raise UserError(f"model.frontend is {name!r}{nearest(str(name), ('mel', *FRONT_ENDS))}")
    if name == "mel":
        if given:
            raise UserError("model.frontend_options: mel has none; its options are `frontend`")
        return
    if encoder.input_kind != "spectrogram":
        raise UserError(f"model.frontend is '{name}', but {model.name} takes the waveform: use mel")
    options.check("model.frontend_options", name, given, FRONT_ENDS[name].Options)
    FRONT_ENDS[name].Options(**given)


def check_stage(stage: ConfigDict, needs_labels: bool) -> None:
    """Raises UserError for what a learned front end cannot do in a stage.

    Args:
      stage: the config of one stage.
      needs_labels: of its objective; others may take tokens, which no mask reaches.
    """
    if not learns(stage.model):
        return
    name, encoder = stage.model.frontend, stage.model.name
    if stage.frontend.n_mfcc:
        raise UserError(f"frontend.n_mfcc is {stage.frontend.n_mfcc}: {name} has no MFCC, set 0")
    if stage.frontend.normalize == "global":
        raise UserError(
            f"frontend.normalize is 'global', by statistics of log-mel: with model.frontend={name} "
            "choose clip, band or none"
        )
    for spec in stage.augment.spectrogram:
        if dict(spec).get("name") in augment.MIXING:
            raise UserError(
                f"augment.spectrogram: {spec['name']} mixes labels, which the features of "
                f"model.frontend={name} come too late for: put mixup or cutmix into "
                "augment.waveform"
            )
    from sacjax.models import ENCODERS

    tokens = issubclass(ENCODERS[encoder], TokenEncoder)
    if stage.augment.spectrogram and tokens and not needs_labels:
        raise UserError(
            f"augment.spectrogram: {encoder} gives this objective tokens, which are made of the "
            f"features of model.frontend={name} unmasked: use augment.waveform"
        )
