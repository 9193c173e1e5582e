"""Encoders behind front ends that learn: what they hear, mask, train, save and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import overrides_for
from flax import nnx
from ml_collections import ConfigDict
from networks import quick
from quick_stages import share_trainers

import sacjax
from sacjax import config as config_lib
from sacjax import models, objectives, stages
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.frontend import learnable
from sacjax.models import base, front_end
from sacjax.objectives.base import build_encoder
from sacjax.train import sharding
from sacjax.train.trainer import make_trainer

SHORT = dict(hop_length=64, n_fft=128, n_mels=8)
MASKS = (dict(name="time_mask", count=1, width=4), dict(name="frequency_mask", count=1, width=3))


def stage_of(name="small_cnn", frontend="leaf", masks=(), options=None, **changed):
    stage = config_lib.stage()
    stage.data.sample_rate = 8000
    stage.frontend.update(SHORT | changed)
    stage.augment.spectrogram = masks
    stage.model.name, stage.model.frontend = name, frontend
    stage.model.encoder = dict(channels=(2, 3), hidden=4) if name == "small_cnn" else {}
    stage.model.frontend_options = options or {}
    return stage


class Frames(base.TokenEncoder):
    """A token for each frame, which is a linear map of it; the context network adds 1."""

    Options = base.Options
    input_kind = "spectrogram"
    features = token_features = 3
    depth = 1

    def __init__(self, *, num_features=64, dtype=jnp.float32, rngs):
        self.dense = nnx.Linear(num_features, 3, rngs=rngs)

    def tokens(self, inputs, lengths):
        return base.Tokens(self.dense(inputs), lengths)

    def context(self, tokens, ctx=Context(), mask=None, keep=None, hidden_states=False):
        return base.EncoderOutput(tokens.features + 1, tokens.lengths, tokens.features[None])


@pytest.fixture
def frames_encoder(monkeypatch):
    monkeypatch.setitem(models.ENCODERS, "frames", Frames)


def test_an_encoder_hears_the_waveform_and_keeps_its_names(check_padding):
    stage = stage_of()
    assert models.input_kind(stage.model) == "waveform"
    encoder = build_encoder(stage, nnx.Rngs(0))
    plain = build_encoder(stage_of(frontend="mel"), nnx.Rngs(0))
    assert isinstance(encoder, type(plain)) and models.width(stage.model) == plain.features
    ours, theirs = ({path for path, _ in nnx.to_flat_state(nnx.state(m))} for m in (encoder, plain))
    assert {path for path in ours - theirs if path[0] != "front_end"} == set() and theirs < ours
    check_padding(encoder, (1500,), [1500, 700])


def test_the_encoder_hears_learned_features_masked_in_training(frames_encoder):
    stage = stage_of("frames", masks=MASKS)
    encoder, inner = build_encoder(stage, nnx.Rngs(0)), Frames(num_features=8, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x, lengths = jnp.asarray(rng.standard_normal((3, 1600)), jnp.float32), jnp.array([1600] * 3)

    def heard(m, ctx):
        output = m(x, lengths, ctx, hidden_states=True)
        return *m.hear(x, lengths, ctx), output, m.tokens(x, lengths)

    run = quick(encoder, heard)
    features, frames, output, tokens = run(Context())
    assert output.hidden_states.shape[0] == encoder.depth
    want, count = quick(encoder.front_end, lambda m: m(x, lengths))()
    np.testing.assert_allclose(features, want, atol=1e-5)
    np.testing.assert_array_equal(frames, count)
    np.testing.assert_allclose(tokens.features, inner.dense(want), atol=1e-5)
    np.testing.assert_allclose(output.frames, tokens.features + 1, atol=1e-6)
    masked, _, output, tokens = run(Context(jax.random.key(0)))
    hidden = np.asarray(masked == 0) & np.asarray(want != 0)
    np.testing.assert_allclose(masked, np.where(hidden, 0, want), atol=1e-5)
    bands, times = hidden.all(1), hidden.all(2)
    assert (hidden == (bands[:, None] | times[:, :, None])).all() and 0 < hidden.mean() < 0.8
    assert len({row.tobytes() for row in hidden}) == 3  # each clip in its own way
    np.testing.assert_allclose(output.frames, inner.dense(masked) + 1, atol=1e-5)
    np.testing.assert_allclose(tokens.features, inner.dense(want), atol=1e-5)


def test_a_padding_row_has_no_frame_that_a_batch_norm_would_count():
    stage = stage_of(frontend="pcen")
    stage.model.encoder = dict(channels=(2, 3), hidden=4, variant="byol_a")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 400)), jnp.float32)

    def statistics(rows, lengths):
        def run(encoder):
            frames = encoder(x[:rows], jnp.asarray(lengths), Context(jax.random.key(0))).lengths
            return frames, encoder.bn1.mean[...], encoder.bn1.var[...]

        return quick(build_encoder(stage, nnx.Rngs(0)), run)()

    frames, *both = statistics(2, [400, 0])
    _, *alone = statistics(1, [400])
    assert frames[0] > 0 and frames[1] == 0
    np.testing.assert_allclose(both, alone, rtol=1e-5)


CHANGES = {
    "optimizer.learning_rate": 1e-2,
    "optimizer.weight_decay": 10.0,  # which would shrink frequencies and exponents
    "augment.spectrogram": MASKS,
    "train.steps": 25,
    "train.evaluate_every": 25,
}


def tiny(overrides, name):
    changes = CHANGES | {"model.frontend": name}
    changed = [f"--config.supervised.{key}={value}" for key, value in changes.items()]
    return config_lib.load("configs/folder.py", [*overrides, *changed])


def check_moved(trained, name):
    """Each parameter has moved by some of 25 steps of 0.01, and none has decayed."""
    kind = learnable.FRONT_ENDS[name]
    first = nnx.state(kind(trained.config, 8000, kind.Options()))
    trained = nnx.to_flat_state(nnx.state(trained))
    for (path, new), (_, old) in zip(trained, nnx.to_flat_state(first), strict=True):
        moved = np.abs(np.asarray(new[...]) - np.asarray(old[...])).max()
        assert 0 < moved < 0.3, path


def test_a_classifier_is_trained_saved_and_loaded_with_its_front_end(
    tmp_path, folder_of_sounds, monkeypatch
):
    share_trainers(monkeypatch)
    config = tiny(overrides_for(folder_of_sounds), "leaf")
    results = stages.run(config, tmp_path / "run")["supervised"]
    assert results["test/loss"] < 0.6 < np.log(2)  # of two classes by chance
    model = sacjax.load(tmp_path / "run")
    check_moved(model.module.encoder.front_end, "leaf")
    found = model.predict(np.zeros([2, 4000], np.float32), sample_rate=8000)
    assert np.isfinite(found.probabilities).all()


@pytest.mark.parametrize("name", ["pcen", "sincnet"])
def test_a_step_trains_the_front_end_too(name, tmp_path):
    stage = tiny(overrides_for(tmp_path), name).supervised
    objective = objectives.build(stage, ("low", "high"), np.ones(2))
    trainer = make_trainer(
        objective, stage, sharding.make_mesh(ConfigDict(dict(data=1, fsdp=1, tensor=1))), 25, 0
    )
    time, label = np.arange(4000) / 8000, np.arange(8) % 2
    pitch = np.random.default_rng(0).uniform(100, 600, 8) + 2000 * label
    audio = np.int16(10000 * np.sin(2 * np.pi * pitch[:, None] * time))
    batch = dict(audio=audio, length=np.full(8, 4000), label=label, index=np.arange(8))
    batch |= dict(mask=np.ones(8, np.float32))
    state, losses = trainer.init(), []
    for _ in range(25):
        state = trainer.step(state, batch)
        losses.append(float(state.sums["loss"][0]))  # so far, each over 8 clips
    each = np.diff(losses, prepend=0) / 8
    assert each[-5:].mean() < 0.5 * each[:3].mean()
    model = nnx.merge(trainer.setup.graphdef, state.params, state.buffers)
    check_moved(model.encoder.front_end, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(frontend="leav"), "model.frontend is 'leav'; did you mean 'leaf'"),
        (dict(frontend="xyz"), "model.frontend is 'xyz'"),
        (dict(options=dict(alpah=1.0)), "model.frontend_options.alpah: leaf has no such option"),
        (dict(options=dict(alpha=2.0)), "model.frontend_options.alpha is 2.0"),
        (dict(frontend="mel", options=dict(alpha=0.5)), "model.frontend_options: mel has none"),
        (dict(name="audionet"), "model.frontend is 'leaf', but audionet takes the waveform"),
        (dict(n_mfcc=5), "frontend.n_mfcc is 5"),
        (dict(normalize="global"), "choose clip, band or none"),
        (dict(masks=(dict(name="mixup"),)), "put mixup or cutmix into augment.waveform"),
    ],
)
def test_what_does_not_fit_gets_one_line(changes, message):
    stage = stage_of(**changes)
    with pytest.raises(UserError) as error:
        config_lib.check(config_lib.default(supervised=stage))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_masks_that_would_not_reach_tokens_are_refused(frames_encoder):
    stage = stage_of("frames", masks=MASKS)
    front_end.check_stage(stage, needs_labels=True)
    with pytest.raises(UserError, match="frames gives this objective tokens"):
        front_end.check_stage(stage, needs_labels=False)


def test_a_later_stage_hears_through_the_same_front_end():
    first, second = stage_of(), stage_of(frontend="mel")
    second.init_from = "first"
    with pytest.raises(UserError, match="needs config.second.model.frontend=leaf"):
        stages.resolve(config_lib.default(first=first, second=second))
