"""Inversion: its losses against PyTorch's STFT, padding, silence, and what the report plays."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile as sf
from flax import nnx

from sacjax import config as config_lib
from sacjax import objectives, stages
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.objectives import inversion
from sacjax.views import make_views

RATE, SIZE = 8000, 1600
SMALL = dict(width=8, hidden=12, depth=1, griffin_lim=2)


def config_of(**options):
    config = config_lib.default(pretrain=config_lib.stage())
    config.tensorboard = False
    s = config.unlock().pretrain
    s.data.update(source="synthetic", examples=60, sample_rate=RATE, seconds=SIZE / RATE)
    s.frontend.update(n_fft=128, hop_length=32, n_mels=10)
    s.model.name, s.objective.name = "small_cnn", "inversion"
    s.model.encoder = dict(channels=(3, 3), hidden=8)
    s.objective.options = SMALL | options
    s.train.update(batch_size=4, steps=1, log_every=1, evaluate_every=100)
    s.eval.update(best="validation/loss", best_mode="min", batch_size=4, splits=("validation",))
    return config_lib.check(config)


def batch_of(lengths=(SIZE, 1000, SIZE), seed=0):
    rng = np.random.default_rng(seed)
    audio = 0.2 * rng.standard_normal([3, SIZE]).astype(np.float32)
    audio = np.where(np.arange(SIZE) < np.array(lengths)[:, None], audio, 0)
    audio[2] = 0  # digital silence
    rows = np.arange(3, dtype=np.int32)
    ones = np.ones(3, np.float32)
    return dict(audio=audio, length=np.int32(lengths), label=rows * 0 - 1, index=rows, mask=ones)


def reference_stft_loss(torch, x, y, resolutions):
    """Returns auraloss's loss of one clip: torch.stft, spectral convergence, log magnitude."""
    total = 0.0
    for n_fft, hop, size in resolutions:
        window = torch.hann_window(size)
        found = []
        for sound in (x, y):
            spectrum = torch.stft(
                torch.tensor(sound), n_fft, hop, size, window, return_complex=True
            )
            power = spectrum.real**2 + spectrum.imag**2
            found.append(torch.sqrt(torch.clamp(power, min=1e-7)))
        made, wanted = found
        total += (torch.norm(wanted - made) / torch.norm(wanted)).item()
        total += torch.nn.functional.l1_loss(torch.log(wanted), torch.log(made)).item()
    return total / len(resolutions)


def test_the_stft_loss_is_auralosss_of_each_clip_alone():
    torch = pytest.importorskip("torch")
    rng, lengths = np.random.default_rng(0), np.int32([2400, 1500, 2400])
    x, y = 0.1 * rng.standard_normal([2, 3, 2400]).astype(np.float32)
    inside = np.arange(2400) < lengths[:, None]
    x, y = x * inside, y * inside
    y[2] = 0
    ours = jax.jit(inversion.stft_loss)(x, y, lengths)
    for k in range(2):
        n = lengths[k]
        want = reference_stft_loss(torch, x[k, :n], y[k, :n], inversion.RESOLUTIONS)
        assert ours[k] == pytest.approx(want, rel=1e-4)
    assert 0 < ours[2] < 20  # of silence the log magnitudes alone


def test_snr_and_convergence_as_written_out():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.standard_normal([2, 1, 300]), jnp.float32)
    want = 10 * np.log10((y**2).sum() / ((x - y) ** 2).sum())
    np.testing.assert_allclose(inversion.snr_db(x, y)[0], want, rtol=1e-5)
    a, b = (jnp.abs(z).reshape(1, 15, 20) for z in (x, y))
    want = np.linalg.norm(a - b) / np.linalg.norm(b)
    np.testing.assert_allclose(inversion.convergence(a, b)[0], want, rtol=1e-5)


@pytest.fixture(scope="module")
def made():
    """Returns (objective, model, a compiled function of the model's state and a batch).

    The function gives the metrics, the reconstructions and the gradients.
    """
    stage = config_of().pretrain
    objective = objectives.build(stage)
    model = objective.build(nnx.Rngs(0))
    views, graphdef = make_views(stage, 0, needs_labels=False), nnx.graphdef(model)

    def judge(state, batch):
        model, seen = nnx.merge(graphdef, state), views(batch)
        training = Context(jax.random.key(0))
        grads = nnx.grad(lambda m: objective.loss(m, seen, training).total)(model)
        metrics = objective.loss(model, seen, Context()).metrics
        return metrics, objective.waveform(model, seen, Context()), nnx.state(grads)

    options = {"xla_backend_optimization_level": "0"}
    return objective, model, jax.jit(judge, compiler_options=options)


def test_a_clip_counts_the_same_alone_and_padded_and_silence_does_no_harm(made):
    objective, model, judge = made
    state = nnx.state(model)
    batch = batch_of()
    both = batch | {"mask": np.float32([0, 1, 0])}
    other = batch_of((1000, 1000, 1000), seed=1)
    other["audio"][0] = batch["audio"][1]
    other["mask"] = np.float32([1, 0, 0])
    sums, sounds, grads = judge(state, batch)
    alone = [objective.summarize(judge(state, b)[0]) for b in (both, other)]
    for name, value in alone[0].items():
        if name != "griffin_lim_convergence":  # its phases are drawn by row
            assert value == pytest.approx(alone[1][name], rel=1e-4), name
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert all(np.isfinite(value) for value in objective.summarize(sums).values())
    assert float(sums["convergence"][1]) == 2 and float(sums["loss"][1]) == 3
    assert sounds[1, :1000].any() and not sounds[1, 1000:].any()
    # Two rounds of Griffin-Lim on a mel spectrogram of noise are nearer than fresh weights.
    assert alone[0]["griffin_lim_convergence"] < alone[0]["convergence"]
    assert objective.verdict(alone[0])


def test_a_network_that_gives_silence_is_told(made):
    objective, model, judge = made
    silent = nnx.clone(model)
    bias = silent.vocoder.head.linear.bias
    bias[...] = bias[...].at[:65].set(-30.0)  # of the log magnitudes
    values = [objective.summarize(judge(nnx.state(m), batch_of())[0]) for m in (model, silent)]
    assert not objective.health(values[0]) and objective.options.collapse_patience == 10
    assert objective.health(values[1]).startswith("level is")


def test_straight_from_the_spectrogram_there_is_no_encoder():
    objective = objectives.build(config_of(source="spectrogram", padding="same").pretrain)
    model = nnx.eval_shape(lambda: objective.build(nnx.Rngs(0)))
    assert not hasattr(model, "encoder") and model.vocoder.expand is None
    assert model.vocoder.stack.embed.kernel.shape == (7, 10, 8) and objective.features == 8
    heard = objectives.build(config_of().pretrain)
    model = nnx.eval_shape(lambda: heard.build(nnx.Rngs(0)))
    assert model.vocoder.expand.kernel.shape == (8, 4 * 8)  # small_cnn: a frame for 4


def test_griffin_lim_is_heard_beside_the_reconstruction():
    stage = config_of().pretrain
    objective, views = objectives.build(stage), make_views(stage, 0, needs_labels=False)
    model = nnx.eval_shape(lambda: objective.build(nnx.Rngs(0)))
    hear = lambda model, batch: objective.samples(model, views(batch), Context())
    sounds = nnx.eval_shape(hear, model, batch_of())
    assert set(sounds) == {"original", "reconstruction", "Griffin-Lim"}
    assert {x.shape for x in sounds.values()} == {(3, SIZE)}


def test_the_report_plays_the_reconstructions(tmp_path):
    config = config_of(griffin_lim=0)
    results = stages.run(config, tmp_path / "run")["pretrain"]
    assert {"validation/snr_db", "validation/convergence"} <= results.keys()
    folder = tmp_path / "run" / "samples" / "pretrain"
    listed = json.loads((folder / "samples.json").read_text())
    assert len(listed) == 4
    for entry in listed:
        assert list(entry["files"]) == ["original", "reconstruction"]
        for file in entry["files"].values():
            samples, rate = sf.read(folder / file)
            assert rate == RATE and 0 < len(samples) <= SIZE
    page = (tmp_path / "run" / "report.html").read_text()
    section = page[page.index("Sounds of pretrain") :]
    assert len(re.findall(r'<audio controls[^>]*src="data:audio/wav;base64,', section)) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(width=0), "objective.options.width is 0"),
        (dict(stft_weight=0.0, mel_weight=0.0), "objective.options.stft_weight is 0.0"),
        (dict(source="wave"), "objective.options.source is 'wave'"),
        (dict(dept=3), "objective.options.dept: .*depth"),
        (dict(model="wav2vec2"), "model.name wav2vec2 hears waveforms"),
        (dict(crop=0.1), "augment.crop_seconds moves the sound"),
        (dict(center=False), "needs frontend.center"),
    ],
)
def test_what_is_refused(change, message):
    config = config_of()
    s = config.pretrain
    s.augment.crop_seconds = change.pop("crop", 0.0)
    s.frontend.center = change.pop("center", True)
    if (name := change.pop("model", None)) is not None:
        s.model.name = name
        s.model.encoder = {}
    s.objective.options = SMALL | change
    with pytest.raises(UserError, match=message):
        config_lib.check(config)
