"""A made-up model with a known answer, and tones for it."""

import numpy as np
import soundfile as sf

from sacjax import config as config_lib
from sacjax import inference, objectives

RATE = 8000


def model(names=("high", "low", "other"), scale=1.0, rate=RATE, multi_label=False):
    """Returns a model that hears how often the sign changes: above 1 kHz 'high', below 'low'.

    Its logits are `scale` and 0, and it hears half a second at a time.
    """
    config = config_lib.default()
    data = config.supervised.data
    data.sample_rate, data.seconds, data.multi_label = rate, 0.5, multi_label
    data.workers, data.cache = 2, True  # of the training, not of predict
    if multi_label:
        config.supervised.objective.options = dict(loss="sigmoid")

    def logits(audio, length):
        found = np.zeros([len(audio), len(names)], np.float32)
        for row, (samples, n) in enumerate(zip(np.asarray(audio), length, strict=True)):
            crossings = np.count_nonzero(np.diff(np.signbit(samples[:n]))) / max(n, 1) * rate / 2
            found[row, 0 if crossings > 1000 else 1] = scale
        return found

    class Crossings(inference.Model):
        logits = property(lambda _: logits)

    objective = objectives.build(config.supervised, names, np.ones(len(names)))
    return Crossings(config, "supervised", tuple(names), objective, None)


def sine(frequency, seconds=0.5, rate=RATE):
    """Returns a tone as float64 [n]."""
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate + 0.1)


def tone(path, frequency, seconds=0.5, rate=RATE, channels=1):
    """Writes a tone and returns its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.tile(sine(frequency, seconds, rate)[:, None], channels), rate)
    return str(path)
