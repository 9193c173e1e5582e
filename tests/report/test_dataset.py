"""Pictures of a data set, and of what augmentation does to it."""

import numpy as np
import pytest

from sacjax import augment
from sacjax import config as config_lib
from sacjax.data import inspect
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.report import dataset

RATE = 8000


class Clip:
    """Noise."""

    sample_rate = RATE

    def __init__(self, seed: int, num_samples: int):
        self.num_samples = num_samples
        self.samples = 0.1 * np.random.default_rng(seed).standard_normal((num_samples, 1), "f")

    def read(self, start: int, count: int) -> np.ndarray:
        return self.samples[start : start + count]


def open_clip(i: int) -> Clip:
    if i == 0:
        raise OSError("broken")
    return Clip(i, RATE // 4 + 100 * i)


def clips(count: int, classes=("cat", "dög$")) -> Recordings:
    labels = [(classes[i % len(classes)],) if classes else None for i in range(count)]
    return Recordings([f"{i}$.wav" for i in range(count)], labels, classes, open_clip)


def test_a_data_set_is_drawn(tmp_path):
    data = config_lib.stage().data
    for count, classes, names in (
        (4, (), ["durations", "formats", "levels"]),
        (1, ("cat$",), ["classes"]),  # which cannot be read
    ):
        recordings = clips(count, classes)
        saved = dataset.draw(tmp_path, recordings, inspect.summarize(recordings, data))
        assert saved == [tmp_path / f"{name}.png" for name in names]
        assert all(path.read_bytes()[:4] == b"\x89PNG" for path in saved)
        assert all(path.stat().st_size > 5000 for path in saved)


def test_augmentations_are_drawn(tmp_path):
    stage = config_lib.stage()
    stage.data.sample_rate, stage.data.seconds = RATE, 0.25
    stage.frontend.n_fft, stage.frontend.hop_length, stage.frontend.n_mels = 256, 64, 20
    stage.augment.waveform = (
        dict(name="gain", probability=0.5),
        dict(name="mixup"),
        dict(name="fgsm", probability=0.5),  # is left out: there is no network
    )
    augment.check(stage.augment.waveform, "waveform")
    saved = dataset.draw_augmentations(tmp_path, clips(12), [0, 1, 6], stage)
    assert [path.name for path in saved] == [
        "augment_waveform_0_gain.png",
        "augment_waveform_1_mixup.png",
    ]
    assert all(path.stat().st_size > 5000 for path in saved)
    with pytest.raises(UserError, match="fewer than two recordings can be read"):
        dataset.draw_augmentations(tmp_path, clips(12), [0, 1], stage)
