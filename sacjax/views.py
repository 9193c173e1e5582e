"""From a batch of audio to the views that an objective takes, on the accelerator.

A view is a clip as a model hears it: trim → crop → waveform augmentations → front end →
spectrogram augmentations. Each view of a clip has random keys of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from sacjax import augment, models
from sacjax.augment import Kind
from sacjax.augment.draws import example_keys, fold_in, integer, scalars
from sacjax.frontend import make_frontend, trim
from sacjax.parts import part

SPECTROGRAM_DRAWS = 1 << 16  # folded into a view's keys, apart from those of the waveform
CROP_DRAW = (1 << 16) - 1
ATTACK_DRAW = (1 << 16) - 2
VIEW_DRAWS = 1 << 20  # view k > 0 folds this + k; the first folds nothing


class View(NamedTuple):
    """What goes into an encoder."""

    inputs: Float[Array, "batch time *bands"]
    """float32 [B, T] samples, or [B, frames, bands]."""

    lengths: Int[Array, " batch"]
    """int32 [B], the valid samples or frames of each clip."""


Views = Callable[..., dict[str, Any]]


def join(first: View, second: View) -> View:
    """Returns two views as one batch, the second after the first."""
    return View(*(jnp.concatenate(pair) for pair in zip(first, second, strict=True)))


def make_views(
    stage: ConfigDict, num_classes: int, *, number: int = 1, needs_labels: bool = True
) -> Views:
    """Returns `views(batch, key=None, offset=None)`, pure and jit-able.

    It takes `audio` [B, T] (int16, or float32 in [-1, 1]), `length` [B], `label` (int32 [B], −1
    unknown; or float32 [B, C], a row of −1 unknown), `mask` [B] and `index` [B]. It gives

    - `views`: a tuple of `number` View; with a key each is augmented in its own way, without one
      they are the plain clip. The label is mixed as the first view's sound is.
    - `clean`: the View of the clip as it is. What does not read it does not compute it.
    - `waveform`: the View of its samples, before the front end, likewise.
    - `source`: the View of the first view's crop without augmentation, of which targets are made.
    - `label` float32 [B, C], rows of zeros where unknown; `labelled` float32 [B]; `mask`, `index`.

    `offset` is what an attack among the augmentations adds to the first view, of `offset_shape`.

    Args:
      stage: the config of one stage.
      num_classes: C.
      number: how many views the objective takes.
      needs_labels: whether unlabelled clips are left out of mixing, as their label is unknown.
    """
    config, sample_rate = stage.augment, stage.data.sample_rate
    spectrogram = models.input_kind(stage.model) == "spectrogram"
    frontend = make_frontend(stage.frontend, sample_rate) if spectrogram else None
    crop_size = round(config.crop_seconds * sample_rate)
    attack = augment.attack_of(config)

    def augmented(
        kind: Kind, keys: Any, clips: tuple[Any, Any, Any], partners: Any, offset: Any
    ) -> tuple[Any, Any, Any]:
        """Returns (x, lengths, labels) of `clips`, which are the same, augmented."""
        return augment.apply(
            config[kind],
            keys,
            *clips,
            partners,
            kind=kind,
            sample_rate=sample_rate,
            offset=offset if attack is not None and attack.kind == kind else None,
        )

    def view(
        x: Float[Array, "batch samples"],
        length: Int[Array, " batch"],
        label: Float[Array, "batch classes"],
        partners: Float[Array, " batch"],
        keys: Key[Array, " batch"] | None,
        offset: Float[Array, "batch time *bands"] | None = None,
    ) -> tuple[View, Float[Array, "batch classes"]]:
        if keys is not None and 0 < crop_size < x.shape[1]:
            x, length = random_crop(keys, x, length, crop_size)
        if keys is not None and config.waveform:
            clips = x, length, label
            x, length, label = augmented("waveform", keys, clips, partners, offset)
        if frontend is not None:
            x, length = frontend(x, length)
            if keys is not None and config.spectrogram:
                keys = fold_in(keys, SPECTROGRAM_DRAWS)
                clips = x, length, label
                x, length, label = augmented("spectrogram", keys, clips, partners, offset)
        return View(x, length), label

    @part("views")
    def views(
        batch: dict[str, Any],
        key: Key[Array, ""] | None = None,
        offset: Float[Array, "batch time *bands"] | None = None,
    ) -> dict[str, Any]:
        x, length, mask = batch["audio"], batch["length"], batch["mask"]
        if x.dtype == jnp.int16:
            x = x.astype(jnp.float32) / 32768
        if stage.frontend.trim_db:  # of waves too
            x, length = trim(
                x,
                length,
                top_db=stage.frontend.trim_db,
                frame_length=stage.frontend.n_fft,
                hop_length=stage.frontend.hop_length,
            )
        label, labelled = read_labels(batch["label"], num_classes)
        partners = mask * labelled if needs_labels else mask

        def there(view: View) -> View:
            """Padding examples have nothing valid, so that no batch norm counts them."""
            return view._replace(lengths=jnp.where(mask > 0, view.lengths, 0))

        clean, _ = view(x, length, label, partners, None)
        source = clean
        if key is not None and 0 < crop_size < x.shape[1]:
            keys = example_keys(key, jnp.arange(x.shape[0]))
            source, _ = view(*random_crop(keys, x, length, crop_size), label, partners, None)
        made, mixed = [], label
        for k in range(number):
            if key is None:
                made.append(clean)
                continue
            keys = example_keys(key, jnp.arange(x.shape[0]))
            if k:
                one, its_label = view(x, length, label, partners, fold_in(keys, VIEW_DRAWS + k))
            else:
                one, its_label = view(x, length, label, partners, keys, offset)
            made.append(one)
            mixed = mixed if k else its_label
        return {
            "views": tuple(map(there, made)),
            "clean": there(clean),
            "waveform": there(View(x, length)),
            "source": there(source),
            "label": mixed,
            "labelled": labelled,
            "mask": mask,
            "index": batch["index"],
        }

    return views


def attacked(
    stage: ConfigDict,
    views: Views,
    batch: dict[str, Any],
    key: Key[Array, ""],
    loss: Callable[[dict[str, Any]], Float[Array, ""]],
) -> dict[str, Any]:
    """Returns the views of a batch in training, changed by the stage's attack where it has one.

    Args:
      stage: the config of one stage.
      views: of `make_views`.
      batch: what `views` takes.
      key: of the draws.
      loss: views → the summed loss that the attack shall raise.
    """
    attack = augment.attack_of(stage.augment)
    if attack is None:
        return views(batch, key)
    gradient = jax.grad(lambda offset: loss(views(batch, key, offset)))
    keys = fold_in(example_keys(key, jnp.arange(len(batch["mask"]))), ATTACK_DRAW)
    shape = offset_shape(stage, attack.kind, views, batch)
    return views(batch, key, jax.lax.stop_gradient(attack.find(gradient, keys, shape)))


def offset_shape(
    stage: ConfigDict, kind: Kind, views: Views, batch: dict[str, Any]
) -> tuple[int, ...]:
    """Returns the shape of what an attack changes: a view's waves [B, T], or its spectrograms."""
    if kind == "spectrogram":
        return jax.eval_shape(views, batch, jax.random.key(0))["views"][0].inputs.shape
    size, samples = batch["audio"].shape
    crop = round(stage.augment.crop_seconds * stage.data.sample_rate)
    return size, crop if 0 < crop < samples else samples


def read_labels(
    label: Int[Array, " batch"] | Float[Array, "batch classes"], num_classes: int
) -> tuple[Float[Array, "batch {num_classes}"], Float[Array, " batch"]]:
    """Returns (labels float32 [B, C], known float32 [B]).

    `known` is 1 where the label is known, else 0, and the label is then zeros.
    """
    if label.ndim == 1:
        return jax.nn.one_hot(label, num_classes, dtype=jnp.float32), (label >= 0).astype(
            jnp.float32
        )
    return jnp.maximum(label, 0), (label >= 0).all(-1).astype(jnp.float32)


def random_crop(
    keys: Key[Array, " batch"],
    x: Float[Array, "batch time"],
    lengths: Int[Array, " batch"],
    size: int,
) -> tuple[Float[Array, "batch {size}"], Int[Array, " batch"]]:
    """Returns (float32 [B, size], lengths): a stretch of each clip that starts at random.

    Args:
      keys: [B], one an example.
      x: [B, T] samples, T > size.
      lengths: [B] valid samples; a clip that is shorter than `size` is taken from its start.
      size: samples of the stretch.
    """

    def one(
        key: Key[Array, ""], x: Float[Array, " time"], length: Int[Array, ""]
    ) -> tuple[Float[Array, " crop"], Int[Array, ""]]:
        u = scalars(jax.random.fold_in(key, CROP_DRAW), 1)[0]
        start = integer(u, jnp.maximum(length - size, 0) + 1)
        return jax.lax.dynamic_slice(x, (start,), (size,)), jnp.minimum(length, size)

    return jax.vmap(one)(keys, x, lengths)
