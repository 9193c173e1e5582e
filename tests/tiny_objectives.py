"""Objectives and batches of a few numbers, for the tests of what trains any objective."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sacjax import config as config_lib
from sacjax.models.base import EncoderOutput
from sacjax.objectives.base import Frozen, Loss, Objective, follow, teacher_of

SAMPLES = 16


def bare_stage(samples=SAMPLES, **optimizer):
    """Returns a stage whose clips go in as they are, by a schedule that does nothing."""
    stage = config_lib.stage()
    stage.data.update(sample_rate=samples, seconds=1.0)
    stage.model.name = "audionet"  # it takes waveforms; the objectives here build no encoder
    plain = dict(schedule="constant", warmup_fraction=0.0, weight_decay=0.0)
    stage.optimizer.update(plain | optimizer)
    stage.augment.waveform = (dict(name="gain", low_db=-12.0, high_db=0.0),)
    stage.train.batch_size = 8
    return stage


def batches(steps, samples=SAMPLES):
    """Yields the same batches of noise each time, with masks of differing counts."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        mask = (rng.uniform(size=8) < 0.6).astype(np.float32)
        mask[rng.integers(8)] = 1
        yield dict(
            audio=rng.standard_normal([8, samples]).astype(np.float32),
            length=np.full(8, samples, np.int32),
            label=rng.integers(0, 2, 8).astype(np.int32),
            index=np.arange(8, dtype=np.int32),
            mask=mask,
        )


class MaskedRegression(Objective):
    """Its loss is averaged over a count that differs between micro-batches: the masked rows."""

    needs_labels = True

    def build(self, rngs, artifacts=None):
        """A line; it takes the clean clip, which no augmentation reaches."""
        return nnx.Linear(SAMPLES, 2, rngs=rngs)

    def loss(self, model, batch, ctx):
        """Squares of the errors."""
        errors = ((model(batch["clean"].inputs) - batch["label"]) ** 2).sum(-1)
        total = (errors * batch["mask"]).sum(), batch["mask"].sum()
        return Loss(*total, {"loss": total})


class LinearEncoder(nnx.Linear):
    """One frame a clip."""

    def __call__(self, inputs, lengths, ctx=None):
        frames = super().__call__(inputs)[:, None]
        return EncoderOutput(frames, jnp.minimum(lengths, 1))


class TwoViewsModel(nnx.Module):
    """A student, its teacher, and a projection that never changes."""

    def __init__(self, samples, features, rngs):
        self.encoder = LinearEncoder(samples, features, rngs=rngs)
        self.teacher = teacher_of(self.encoder)
        normal = jax.random.normal(rngs.params(), [features, 4])
        self.projection = Frozen(normal / features**0.5)


class TwoViews(Objective):
    """The student of one view predicts what its teacher makes of the other."""

    views = 2
    features = 8

    @staticmethod
    def decay(progress):
        """The teacher's, after so many steps of the schedule."""
        return (1.0 + progress) / (4.0 + progress)

    def build(self, rngs, artifacts=None):
        """As wide as the clip is long where that is large enough to be split over devices."""
        data = self.stage.data
        samples = round(data.seconds * data.sample_rate)
        return TwoViewsModel(samples, max(samples // 2, 8), rngs)

    def loss(self, model, batch, ctx):
        """Squares of the differences, in the projection, and how far apart the views are."""
        one, other = batch["views"]
        student = model.encoder(one.inputs, one.lengths, ctx).frames[:, 0]
        teacher = model.teacher(other.inputs, other.lengths, ctx).frames[:, 0]
        errors = ((student - teacher) @ model.projection[...]) ** 2
        errors = errors.sum(-1) + ((student - 1) ** 2).mean(-1)
        mask = batch["mask"]
        total = (errors * mask).sum(), mask.sum()
        far = lambda a, b: (jnp.abs(a.inputs - b.inputs).sum(), jnp.ones([]))
        distances = {
            "view_distance": far(one, other),
            "clean_distance": far(one, batch["clean"]),
        }
        return Loss(*total, {"loss": total} | distances)

    def after_update(self, model, ctx):
        """Moves the teacher."""
        follow(model.teacher, model.encoder, self.decay(ctx.progress))

    def after_loading(self, model):
        """The teacher starts as the encoder that was loaded."""
        follow(model.teacher, model.encoder, 0.0)
