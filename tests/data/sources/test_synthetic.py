"""Synthetic clips are pure functions of (seed, index), balanced and in range.

They are hard for a linear model.
"""

import multiprocessing
import pickle

import numpy as np
import pytest
import scipy.signal
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sacjax import config
from sacjax.data.sources.synthetic import CLASSES, MAKERS, _comb, _decay, load_synthetic, make_clip
from sacjax.errors import UserError
from sacjax.frontend import mel_filterbank

RATE = 16000


def _data(**options):
    data = config.stage().data
    data.update(options)
    return data


def _read(recordings, i):
    clip = recordings.open(i)
    return clip.read(0, clip.num_samples)[:, 0]


def _digest(arguments):
    return make_clip(*arguments).tobytes()


def test_a_clip_is_the_same_in_any_order_and_process():
    arguments = [(3, i, RATE, RATE) for i in range(len(CLASSES))]
    forward = [make_clip(*a).tobytes() for a in arguments]
    backward = [make_clip(*a).tobytes() for a in arguments[::-1]][::-1]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.map(_digest, arguments)
    assert forward == backward == elsewhere


def test_opening_is_picklable_and_reads_any_part():
    recordings = load_synthetic(_data(examples=40, sample_rate=8000, seconds=0.5))
    opened = pickle.loads(pickle.dumps(recordings.open))(7)
    whole = _read(recordings, 7)
    assert opened.num_samples == len(whole) == 4000 and opened.sample_rate == 8000
    np.testing.assert_array_equal(opened.read(1000, 300)[:, 0], whole[1000:1300])
    assert opened.read(3900, 300).shape == (100, 1)


@pytest.mark.parametrize(("samples", "period"), [(8000, 7), (8000, 36), (50, 36), (5, 36)])
def test_the_filters_are_those_of_scipy(samples, period):
    rng = np.random.default_rng(samples + period)
    sound = np.zeros(samples, np.float32)
    sound[rng.integers(0, samples, 40)] = rng.uniform(-1, 1, 40)
    one = np.ones(1, np.float32)
    comb = np.zeros(period + 2, np.float32)
    comb[[0, period, period + 1]] = 1, -0.497, -0.497
    burst = np.where(np.arange(samples) < period, sound, 0).astype(np.float32)
    np.testing.assert_array_equal(
        _comb(burst, period, 0.497), scipy.signal.lfilter(one, comb, burst)
    )
    pole = np.array([1, -0.97], np.float32)
    np.testing.assert_array_equal(_decay(sound, 0.97), scipy.signal.lfilter(one, pole, sound))


def test_seeds_and_indices_give_different_clips():
    same_class = len(CLASSES)
    clips = [
        make_clip(seed, index, RATE, RATE)
        for seed in (0, 1)
        for index in (0, same_class, 2 * same_class)
    ]
    for i, a in enumerate(clips):
        for b in clips[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.5
    first, second = (load_synthetic(_data(examples=40, split_seed=seed)) for seed in (0, 1))
    assert not np.array_equal(_read(first, 5), _read(second, 5))


@pytest.mark.parametrize(
    ("rate", "seconds"), [(16000, 1.0), (44100, 0.3), (4000, 0.1), (8000, 2.5)]
)
def test_every_class_is_finite_and_in_range(rate, seconds):
    samples = round(rate * seconds)
    for index in range(2 * len(CLASSES)):
        clip = make_clip(0, index, samples, rate)
        assert clip.shape == (samples,) and clip.dtype == np.float32
        assert np.isfinite(clip).all() and 0.09 < np.abs(clip).max() < 0.9
        assert abs(clip.mean()) < 1e-4


def test_there_are_enough_classes_and_they_are_balanced_in_each_part():
    recordings = load_synthetic(_data(examples=2000))
    assert len(CLASSES) >= 16 and set(CLASSES) == set(MAKERS)
    assert (
        recordings.class_names == tuple(sorted(CLASSES))
        and len(set(recordings.names)) == len(recordings) == 2000
    )
    labels, parts = np.array([label for (label,) in recordings.labels]), np.array(recordings.splits)
    for part, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        counts = np.array([(labels[parts == part] == name).sum() for name in CLASSES])
        assert (counts == counts[0]).all()
        assert abs(counts.sum() / 2000 - share) <= 0.02


def test_more_examples_move_no_clip_to_another_part():
    few, many = (load_synthetic(_data(examples=n)) for n in (500, 3000))
    assert few.splits == many.splits[:500] and few.labels == many.labels[:500]
    np.testing.assert_array_equal(_read(few, 123), _read(many, 123))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (dict(examples=5), "examples"),
        (dict(sample_rate=1000), "sample_rate"),
        (dict(seconds=0.01), "seconds"),
    ],
)
def test_impossible_settings_name_their_key(options, key):
    with pytest.raises(UserError, match=f"data.{key}"):
        load_synthetic(_data(**options))


def _mean_log_mel(clip, filters):
    power = np.abs(scipy.signal.stft(clip, RATE, nperseg=1024, noverlap=768)[2]) ** 2
    return np.log(filters @ power + 1e-10).mean(1)


def test_a_linear_model_on_mean_spectra_does_poorly():
    filters = mel_filterbank(RATE, n_fft=1024, n_mels=64).T
    count, train = 1800, 1200
    labels = np.arange(count) % len(CLASSES)
    with threadpool_limits(
        1
    ):  # BLAS threads that wait for each other on a busy machine take minutes
        features = np.stack(
            [_mean_log_mel(make_clip(0, i, RATE, RATE), filters) for i in range(count)]
        )
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(
            features[:train], labels[:train]
        )
        accuracy = linear.score(features[train:], labels[train:])
    assert 0.2 < accuracy < 0.7
