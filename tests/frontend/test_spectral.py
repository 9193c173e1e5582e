"""The front end against librosa and SciPy, and what a padded, sharded batch relies on."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from processes import run_python

from sacjax import config, frontend
from sacjax.errors import UserError
from sacjax.frontend import fft

RATE = 16000
RTOL = 1e-4
STFT_GRID = [  # n_fft, win_length, hop_length, window
    (512, None, None, "hann"),
    (512, 400, 160, "hamming"),
    (400, 400, 160, "hann"),
    (1024, 600, 256, "blackman"),
    (255, 200, 77, "hann"),
    (64, 64, 1, ("kaiser", 8.0)),
    (256, 256, 300, "boxcar"),
]


def sound(size=4000, clips=2, seed=0):
    """Noise with a decay and two tones: float32 [clips, size]."""
    rng = np.random.default_rng(seed)
    time = np.arange(size) / RATE
    x = 0.1 * rng.standard_normal((clips, size)) * np.exp(-3 * time)
    return (
        x + 0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 3000 * time)
    ).astype(np.float32)


def assert_close(ours, reference):
    """Each value to 1e-4 of itself, or to 1e-6 of the largest (float32 rounding)."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    np.testing.assert_allclose(ours, reference, rtol=RTOL, atol=1e-6 * np.abs(reference).max())


def turn(x):
    """librosa's [..., bins, frames] to ours."""
    return np.swapaxes(x, -1, -2)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("n_fft", "win_length", "hop_length", "window"), STFT_GRID)
def test_stft_is_librosas(n_fft, win_length, hop_length, window, center):
    librosa = pytest.importorskip("librosa")
    options = dict(
        n_fft=n_fft, win_length=win_length, hop_length=hop_length, window=window, center=center
    )
    for pad_mode in ("reflect", "constant") if center else ("reflect",):
        reference = librosa.stft(sound().astype(np.float64), **options, pad_mode=pad_mode)
        ours = jax.jit(lambda x, mode=pad_mode: frontend.stft(x, **options, pad_mode=mode))(sound())
        assert ours.dtype == jnp.complex64
        assert_close(ours, turn(reference))


@pytest.mark.parametrize(
    ("n_fft", "hop_length", "window"),
    [(512, 128, "hann"), (400, 160, "hamming"), (1024, 256, "hann")],
)
def test_stft_is_scipys(n_fft, hop_length, window):
    x = sound(4096 + n_fft).astype(np.float64)
    options = dict(window=window, nperseg=n_fft, noverlap=n_fft - hop_length, padded=False)
    scale = scipy.signal.get_window(window, n_fft).sum()
    for center, boundary in ((True, "even"), (False, None)):
        reference = scipy.signal.stft(x, **options, boundary=boundary)[2] * scale
        assert_close(
            frontend.stft(x, n_fft=n_fft, hop_length=hop_length, window=window, center=center),
            turn(reference),
        )


def test_istft_inverts_stft():
    for n_fft, hop_length in ((512, 128), (256, 100)):

        @jax.jit
        def there_and_back(x, n_fft=n_fft, hop_length=hop_length):
            return frontend.istft(
                frontend.stft(x, n_fft=n_fft, hop_length=hop_length),
                hop_length=hop_length,
                length=4000,
            )

        back, whole = there_and_back(sound()), 4000 // hop_length * hop_length
        assert back.shape == (2, 4000)
        np.testing.assert_allclose(back[:, :whole], sound()[:, :whole], atol=1e-5)


@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize("norm", ["slaney", None])
@pytest.mark.parametrize(
    ("n_fft", "n_mels", "fmin", "fmax"),
    [(512, 40, 0.0, None), (1024, 128, 20.0, 7600.0), (400, 23, 300.0, 4000.0)],
)
def test_mel_filterbank_is_librosas(n_fft, n_mels, fmin, fmax, htk, norm):
    librosa = pytest.importorskip("librosa")
    options = dict(n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=norm)
    ours = frontend.mel_filterbank(RATE, **options)
    assert ours.shape == (n_fft // 2 + 1, n_mels) and ours.dtype == np.float32
    assert_close(ours, librosa.filters.mel(sr=RATE, **options).T)


def test_mel_filterbank_tells_of_empty_filters():
    with pytest.warns(UserWarning, match="mel filters are empty"):
        frontend.mel_filterbank(RATE, n_fft=128, n_mels=100)


@pytest.mark.parametrize("power", [1.0, 2.0, 1.5])
@pytest.mark.parametrize(
    ("n_fft", "win_length", "hop_length", "n_mels", "fmin", "fmax", "center"),
    [
        (512, 400, 160, 40, 0.0, None, True),
        (1024, 1024, 256, 64, 50.0, 7000.0, True),
        (400, 400, 100, 20, 0.0, 4000.0, False),
    ],
)
def test_mel_and_mfcc_are_librosas(
    n_fft, win_length, hop_length, n_mels, fmin, fmax, center, power
):
    librosa = pytest.importorskip("librosa")
    options = dict(
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop_length,
        n_mels=n_mels,
        fmin=fmin,
        fmax=fmax,
        center=center,
        power=power,
    )
    for row in sound():
        reference = librosa.feature.melspectrogram(
            y=row.astype(np.float64), sr=RATE, **options, pad_mode="reflect"
        )
        assert_close(frontend.mel_spectrogram(row, sample_rate=RATE, **options), turn(reference))
        cepstra = librosa.feature.mfcc(
            S=librosa.power_to_db(reference, top_db=None), n_mfcc=13, lifter=22
        )
        if power == 2:
            ours = frontend.mfcc(
                row, sample_rate=RATE, n_mfcc=13, lifter=22, top_db=None, **options
            )
            assert_close(ours, turn(cepstra))


def test_mfcc_defaults_are_librosas():
    librosa = pytest.importorskip("librosa")
    row = sound(20000, clips=1)[0]
    assert_close(
        frontend.mfcc(row, sample_rate=RATE, pad_mode="constant"),
        turn(librosa.feature.mfcc(y=row, sr=RATE)),
    )


@pytest.mark.parametrize("ref", [1.0, 0.01, "max"])
@pytest.mark.parametrize("top_db", [80.0, 30.0, None])
def test_decibels_are_librosas(ref, top_db):
    librosa = pytest.importorskip("librosa")
    spectrogram = np.random.default_rng(0).exponential(size=(3, 20, 8)).astype(np.float32) ** 6
    reference = {"ref": np.max if ref == "max" else ref, "top_db": top_db}
    ours = frontend.log_scale(spectrogram, log="db", floor=1e-10, ref=ref, top_db=top_db)
    for row, clip in zip(
        ours, spectrogram, strict=True
    ):  # librosa's maximum is over all that it is given
        np.testing.assert_allclose(
            row, librosa.power_to_db(clip, amin=1e-10, **reference), rtol=RTOL, atol=1e-4
        )
    ours = frontend.log_scale(spectrogram, log="db", floor=1e-5, ref=ref, top_db=top_db, power=1.0)
    for row, clip in zip(ours, spectrogram, strict=True):
        np.testing.assert_allclose(
            row, librosa.amplitude_to_db(clip, amin=1e-5, **reference), rtol=RTOL, atol=1e-4
        )


def test_plain_logarithms_have_a_floor():
    values = jnp.asarray([[[0.0, 1e-12, 1.0, 100.0]]])
    np.testing.assert_allclose(
        frontend.log_scale(values, floor=1e-10)[0, 0], np.log([1e-10, 1e-10, 1, 100]), rtol=1e-6
    )
    np.testing.assert_allclose(
        frontend.log_scale(values, log="log10", floor=1e-3)[0, 0], [-3, -3, 0, 2], atol=1e-6
    )
    np.testing.assert_allclose(
        frontend.log_scale(values, log="log10", floor=1e-3, ref="max")[0, 0],
        [-5, -5, -2, 0],
        atol=1e-6,
    )
    silence = frontend.log_mel_spectrogram(
        jnp.zeros([1, 4000]), sample_rate=RATE, n_fft=512, n_mels=20, ref="max", log="db"
    )
    assert (silence == 0).all()


def test_preemphasis_is_librosas():
    librosa = pytest.importorskip("librosa")
    for coef in (0.97, 0.5):
        np.testing.assert_allclose(
            frontend.preemphasis(sound(), coef=coef),
            librosa.effects.preemphasis(sound(), coef=coef),
            atol=1e-6,
        )


LENGTHS = (4000, 3001, 300)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(
            pad_mode="constant",
            ref="max",
            top_db=30.0,
            normalize="global",
            mean=-20.0,
            std=10.0,
            power=1.0,
        ),
        dict(normalize="band", log="natural", hop_length=100, preemphasis=0.97),
        dict(normalize="none", ref="max", n_mfcc=13, win_length=400),
    ],
)
def test_a_clip_has_the_same_features_alone_and_in_a_padded_batch(options):
    c = config.stage().frontend
    c.n_fft, c.hop_length, c.n_mels = 512, 128, 20
    c.update(options)
    run = jax.jit(frontend.make_frontend(c, RATE))
    audio = sound(4000, len(LENGTHS))
    lengths = jnp.asarray(LENGTHS)
    features, frames = run(
        audio, lengths
    )  # what lies beyond a clip's length is loud, and must not matter
    assert features.shape == (len(LENGTHS), 1 + 4000 // c.hop_length, c.n_mfcc or c.n_mels)
    assert features.dtype == jnp.float32 and frames.dtype == jnp.int32
    np.testing.assert_array_equal(frames, 1 + lengths // c.hop_length)
    for i, n in enumerate(LENGTHS[1:], 1):
        alone, count = run(audio[i : i + 1, :n], lengths[i : i + 1])
        assert count[0] == alone.shape[1]
        np.testing.assert_allclose(features[i, : frames[i]], alone[0], atol=2e-4)
        assert (features[i, frames[i] :] == 0).all()


def test_lengths_reflect_as_numpy_does_however_short_the_clip():
    audio = sound(2000, 4)
    lengths = jnp.asarray([2000, 400, 257, 3])
    ours = np.asarray(
        jax.jit(lambda x, n: frontend.stft(x, n_fft=512, hop_length=128, lengths=n))(audio, lengths)
    )
    for row, x, n in zip(ours, audio, lengths, strict=True):
        padded = np.pad(x[:n].astype(np.float64), 256, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[
            ::128
        ] * scipy.signal.get_window("hann", 512)
        assert_close(row[: 1 + n // 128], np.fft.rfft(frames))


def test_without_centring():
    c = config.stage().frontend
    c.n_fft, c.hop_length, c.n_mels, c.center = 512, 128, 20, False
    run = jax.jit(frontend.make_frontend(c, RATE))
    features, frames = run(sound(2000, 3), jnp.asarray([2000, 700, 0]))
    np.testing.assert_array_equal(frames, [12, 2, 1])  # never none: poolings divide by it
    assert np.isfinite(features).all()
    np.testing.assert_allclose(
        features[1, :2], run(sound(2000, 3)[1:2, :700], jnp.asarray([700]))[0][0], atol=2e-4
    )
    with pytest.raises(UserError, match="frontend.n_fft 512 is longer than the audio, 400 samples"):
        run(sound(400), jnp.asarray([400, 400]))
    with pytest.raises(ValueError, match="set center=True"):
        frontend.stft(sound(400), n_fft=512, center=False)


def test_wrong_options():
    with pytest.raises(ValueError, match="win_length"):
        frontend.stft(sound(), n_fft=256, win_length=400)
    with pytest.raises(ValueError, match="pad_mode"):
        frontend.stft(sound(), n_fft=256, pad_mode="edge", lengths=jnp.asarray([9, 9]))
    with pytest.raises(ValueError, match="'dB'"):
        frontend.log_scale(jnp.ones([1, 2, 3]), log="dB")
    with pytest.raises(ValueError, match="norm"):
        frontend.mel_filterbank(RATE, norm="area")
    with pytest.raises(ValueError, match="n_mfcc 30"):
        frontend.mfcc(sound(), sample_rate=RATE, n_mfcc=30, n_mels=20)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gradients_are_finite_on_silence_and_right(power):
    @jax.jit
    def loss(x):
        return frontend.log_mel_spectrogram(
            x, sample_rate=RATE, n_fft=256, n_mels=20, power=power, top_db=None, log="db"
        ).sum()

    audio = jnp.concatenate([jnp.zeros([1, 1000]), sound(1000, 1)])
    gradient = jax.jit(jax.grad(loss))(audio)
    assert np.isfinite(gradient).all() and np.abs(gradient[1]).max() > 0
    step = 0.001 * gradient[1] / jnp.linalg.norm(gradient[1])
    rise = loss(audio.at[1].add(step)) - loss(audio.at[1].add(-step))
    np.testing.assert_allclose(rise, 2 * (step * gradient[1]).sum(), rtol=0.05)


def test_half_precision_audio_is_worked_on_in_float32():
    audio = jnp.asarray(sound(), jnp.bfloat16)
    ours = frontend.mel_spectrogram(audio, sample_rate=RATE, n_fft=512, n_mels=20)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(
        ours,
        frontend.mel_spectrogram(audio.astype(jnp.float32), sample_rate=RATE, n_fft=512, n_mels=20),
    )
    assert frontend.normalize(audio[..., None]).dtype == jnp.float32


SHARDED = """
import re, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sacjax import config, frontend
assert jax.device_count() == 8
audio = jnp.asarray(np.load(r"{path}")); lengths = jnp.asarray([4000, 3001] * 4)
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))
made = frontend.make_frontend(config.stage().frontend, 16000)
run = jax.jit(made, in_shardings=rows, out_shardings=rows)
np.save(r"{path}", run(audio, lengths)[0])
def loss(x):
    return (run(x, lengths)[0] ** 2).sum(1)
def gradient(x):
    return jax.vjp(loss, x)[1](jnp.ones([8, 64]))[0]
back = jax.jit(gradient, in_shardings=rows, out_shardings=rows)
print(run.lower(audio, lengths).compile().as_text(), back.lower(audio).compile().as_text())
"""


def test_a_batch_over_8_devices_is_not_gathered(tmp_path):
    """XLA by itself gathers the whole batch on each device before an FFT."""
    audio, path = sound(4000, 8), tmp_path / "array.npy"
    np.save(path, audio)
    done = run_python("-c", SHARDED.format(path=path), devices=8)
    assert done.returncode == 0, done.stderr
    assert "fft" in done.stdout and not re.search(
        r"all-(gather|reduce|to-all)|collective", done.stdout
    )
    features, _ = frontend.make_frontend(config.stage().frontend, RATE)(
        audio, jnp.asarray([4000, 3001] * 4)
    )
    np.testing.assert_allclose(np.load(path), features, atol=1e-4)


@pytest.mark.parametrize("n", [20, 31, 40])
def test_partitioned_fft_is_numpys(n):
    """The transform that several devices use: values, vmap and gradients."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4, 3, 31)), jnp.float32)
    there = fft._differentiable(jnp.fft.rfft, n, 31)
    back = fft._differentiable(jnp.fft.irfft, n, n // 2 + 1)
    np.testing.assert_allclose(there(x), np.fft.rfft(x, n), atol=1e-5)
    np.testing.assert_allclose(jax.vmap(there, 1)(x), np.fft.rfft(x, n).swapaxes(0, 1), atol=1e-5)
    weight = jnp.asarray(rng.standard_normal((4, 3, n)), jnp.float32)

    def loss(there, back, x):
        return (back(there(x) * (2 + 1j * jnp.arange(n // 2 + 1))) * weight).sum()

    ours = jax.jit(jax.grad(lambda x: loss(there, back, x)))(x)
    mapped = jax.jit(jax.grad(lambda x: loss(jax.vmap(there), jax.vmap(back), x)))(x)
    reference = jax.jit(
        jax.grad(lambda x: loss(lambda x: jnp.fft.rfft(x, n), lambda x: jnp.fft.irfft(x, n), x))
    )(x)
    np.testing.assert_allclose(ours, reference, atol=1e-4)
    np.testing.assert_allclose(mapped, reference, atol=1e-4)


def test_jitted_framing_reads_no_indices():
    """Framing is copies of blocks: a gather would be XLA's slowest way."""
    run = jax.jit(
        lambda x: frontend.mel_spectrogram(x, sample_rate=RATE, n_fft=1024, hop_length=256)
    )
    assert not re.search(r"\bgather\(", run.lower(jnp.zeros([2, 8000])).compile().as_text())
