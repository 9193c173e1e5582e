"""Front ends that learn, against NumPy, SciPy, librosa, and SpeechBrain where it is installed."""

import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from sacjax import frontend
from sacjax.errors import UserError
from sacjax.frontend import learnable

RATE = 8000
SMALL = frontend.Options(
    n_fft=128, win_length=64, hop_length=24, n_mels=6, fmin=60.0, fmax=3800.0, normalize="none"
)
HALF = np.sqrt(2 * np.log(2)) / np.pi


@functools.cache
def made(name):
    """A front end whose parameters differ from band to band."""
    kind = learnable.FRONT_ENDS[name]
    module = kind(SMALL, RATE, kind.Options())
    rng = np.random.default_rng(0)
    for value in jax.tree.leaves(nnx.state(module), is_leaf=lambda v: isinstance(v, nnx.Variable)):
        value[...] = value[...] * rng.uniform(0.9, 1.0, 6)
    return module


@functools.cache
def compiled(name):
    """(features, frames) of [2, 601] and the gradients of their squares by the parameters."""
    graphdef, state = nnx.split(made(name))

    @jax.jit
    def run(state, audio, lengths):
        def loss(state):
            features, frames = nnx.merge(graphdef, state)(audio, lengths)
            return jnp.square(features).sum(), (features, frames)

        grads, found = jax.grad(loss, has_aux=True)(state)
        return *found, grads

    return lambda audio, lengths, given=state: run(given, jnp.asarray(audio), jnp.array(lengths))


def sound():
    return 0.3 * np.random.default_rng(1).standard_normal((2, 601)).astype(np.float32)


def values(module):
    found = nnx.to_flat_state(nnx.state(module))
    return {path[-1]: np.float64(value[...]) for path, value in found}


def pcen(energy, p, floor):
    """Of [frames, bands], by SciPy's recursive filter."""
    average = np.empty_like(energy)
    for band, s in enumerate(p["smooth"]):
        start = [(1 - s) * energy[0, band]]
        average[:, band] = scipy.signal.lfilter([s], [1, s - 1], energy[:, band], zi=start)[0]
    gained = energy / (floor + average) ** p["alpha"] + p["delta"]
    return gained ** (1 / p["root"]) - p["delta"] ** (1 / p["root"])


def filtered(x, filters, rectify, p):
    """The formula of LEAF, a convolution and a window at a time, of one clip [T]."""
    taps, half = 65, 32
    time = np.arange(taps) - half
    bands = []
    for impulse, sigma in zip(filters, p["lowpass"], strict=True):
        energy = np.pad(rectify(np.convolve(x, impulse)[half : half + len(x)]), half)
        window = np.exp(-0.5 * (time / (sigma * half)) ** 2)
        starts = range(0, len(x), SMALL.hop_length)
        bands.append([energy[k : k + taps] @ window for k in starts])
    return np.maximum(np.array(bands).T, 1e-5)


def leaf_energy(x, p):
    time = np.arange(-32, 33)
    bells = [
        np.exp(-0.5 * (time / w) ** 2 + 1j * c * time) / (np.sqrt(2 * np.pi) * w)
        for c, w in zip(p["centre"], p["width"], strict=True)
    ]
    return filtered(x, bells, lambda y: np.abs(y) ** 2, p)


def sinc_energy(x, p):
    time = np.arange(-32, 33)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.linspace(0, 31.5, 32) / 65)
    window = np.concatenate([window, [1], window[::-1]])
    least = 2 * np.pi * 50 / RATE
    filters = []
    for low, band in zip(p["low"] + least, p["band"] + least, strict=True):
        high = min(low + band, np.pi)
        # An ideal band-pass is the difference of two low-passes, sin(w t) / (pi t).
        ideal = high / np.pi * np.sinc(high * time / np.pi)
        ideal -= low / np.pi * np.sinc(low * time / np.pi)
        filters.append(ideal * np.pi / (high - low) * window)
    return filtered(x, filters, lambda y: np.where(y > 0, y, 0.2 * y), p)


def mel_energy(x, p):
    mel = librosa.feature.melspectrogram(
        y=np.float64(x), sr=RATE, n_fft=128, win_length=64, hop_length=24, n_mels=6, fmin=60.0,
        fmax=3800.0, pad_mode="reflect",
    )  # fmt: skip
    return mel.T


REFERENCES = {"leaf": (leaf_energy, 1e-12), "sincnet": (sinc_energy, 1e-12)}
REFERENCES |= {"pcen": (mel_energy, 1e-6)}


@pytest.mark.parametrize("name", learnable.FRONT_ENDS)
def test_formula_padding_and_gradients(name):
    """A clip alone, here by the formula, is what it is in a padded batch with loud padding."""
    energy, floor = REFERENCES[name]
    x, p = sound(), values(made(name))
    features, frames, grads = compiled(name)(x, [601, 250])
    for row, length in enumerate((601, 250)):
        wanted = pcen(energy(x[row, :length], p), p, floor)
        assert frames[row] == len(wanted)
        got = features[row, : len(wanted)]
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
        assert (features[row, len(wanted) :] == 0).all()
    for path, grad in nnx.to_flat_state(grads):  # each band of each parameter learns
        assert jnp.isfinite(grad[...]).all() and (grad[...] != 0).all(), path
    silent, _, grads = compiled(name)(0 * x, [601, 0])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((silent, grads)))


@pytest.mark.parametrize("name", learnable.FRONT_ENDS)
def test_values_out_of_range_are_clipped_at_use(name):
    state, x = nnx.state(made(name)), sound()
    ranges = dict(alpha=(None, 1), smooth=(0, 1), root=(1, None), lowpass=(2 / 65, 0.5))
    ranges |= dict(centre=(0, np.pi), width=(4 * HALF, 65 * HALF))
    wild, tame = jax.tree.map(lambda v: v, state), jax.tree.map(lambda v: v, state)
    for (path, w), (_, t) in zip(nnx.to_flat_state(wild), nnx.to_flat_state(tame), strict=True):
        for band, end in enumerate(ranges.get(path[-1], ())):
            if end is not None:
                w[...] = w[...].at[band].set(end + (100 if band else -100))
                t[...] = t[...].at[band].set(end)
        if path[-1] in ("low", "band"):  # edges beyond half the rate, and a band turned round
            w[...] = w[...].at[0].set(7.0).at[1].multiply(-1)
    got, _, grads = compiled(name)(x, [601, 601], wild)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((got, grads)))
    if name != "sincnet":
        np.testing.assert_array_equal(got, compiled(name)(x, [601, 601], tame)[0])


def test_gabor_filters_start_as_the_mel_filters_do():
    """The peak and the width at half maximum of librosa's mel filters' square roots."""
    mel = librosa.filters.mel(
        sr=RATE, n_fft=128, n_mels=6, fmin=60.0, fmax=3800.0, htk=True, norm=None
    )
    centre, width = learnable.gabor_like_mel(SMALL, RATE)
    for band, root in enumerate(np.sqrt(mel)):
        assert centre[band] == pytest.approx(root.argmax() * 2 * np.pi / 128)
        assert width[band] == pytest.approx(HALF * 128 / (root >= root.max() / 2).sum())


def test_groups_of_filters_change_nothing(monkeypatch):
    graphdef, state = nnx.split(made("leaf"))
    x, lengths = jnp.asarray(sound()), jnp.array([601, 250])

    def loss(state):
        return jnp.square(nnx.merge(graphdef, state)(x, lengths)[0]).sum()

    whole = compiled("leaf")(x, [601, 250])[2]
    limit = 2 * 2 * 2 * 601 // jax.device_count() + 1  # two filters at a time
    monkeypatch.setattr(learnable, "LARGEST", {"cpu": limit})
    split = jax.jit(jax.grad(loss))
    assert "scan" in str(jax.make_jaxpr(loss)(state))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), split(state), whole
    )


def test_bad_options_get_one_line():
    for options, words in (
        (dict(alpha=1.5), "alpha is 1.5"),
        (dict(root=0.5), "root is 0.5"),
        (dict(delta=0.0), "delta is 0.0"),
        (dict(lowpass=0.6), "lowpass is 0.6"),
    ):
        with pytest.raises(UserError, match=f"model.frontend_options.{words}"):
            learnable.FilterOptions(**options)


def speechbrain(module):
    """A module of SpeechBrain's; its torchaudio may not load beside the CPU's torch."""
    try:
        return pytest.importorskip(module, exc_type=ImportError)
    except OSError as error:
        return pytest.skip(f"{module} does not load: {error}")


def test_equal_to_speechbrain():
    """LEAF at its published size; the filters of SincConv; PCEN.

    SpeechBrain's low-pass adds a bias that leaf-audio's has not: it is put to 0.
    """
    features, cnn = speechbrain("speechbrain.lobes.features"), speechbrain("speechbrain.nnet.CNN")
    torch = pytest.importorskip("torch")
    config = frontend.Options(
        n_fft=512, win_length=400, hop_length=160, n_mels=40, fmin=60.0, fmax=7800.0,
        normalize="none",
    )  # fmt: skip
    theirs = features.Leaf(40, in_channels=1, min_freq=60.0, max_freq=7800.0)
    theirs.pooling._bias.data.zero_()
    ours = learnable.Leaf(config, 16000, learnable.FilterOptions())
    x = 0.1 * np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    wanted = theirs(torch.tensor(x)).detach().numpy()
    got, frames = ours(jnp.asarray(x), jnp.array([3000, 3000]))
    assert frames.tolist() == [wanted.shape[1]] * 2
    np.testing.assert_allclose(got, wanted, atol=1e-5)

    sinc = cnn.SincConv(8, 401, in_channels=1)
    sinc(torch.tensor(x)[..., None])
    wanted = sinc._get_sinc_filters().detach().numpy()[:, 0]
    got = learnable.SincFilters(frontend.Options(n_mels=8), 16000, 401)()[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5)

    norm = speechbrain("speechbrain.nnet.normalization")
    energy = np.random.default_rng(0).uniform(0, 1, (2, 30, 5)).astype(np.float32)
    wanted = norm.PCEN(5, floor=1e-6)(torch.tensor(energy)).detach().numpy()
    got = learnable.PCEN(5, learnable.PCENOptions())(jnp.asarray(energy))
    np.testing.assert_allclose(got, wanted, atol=1e-5)
