"""A small spectrogram ResNet on ESC-50, or ESC-10, from scratch.

    python -m sacjax.main --config configs/esc50/resnet.py:esc10,fold=1 --workdir runs/esc10/resnet/fold1_seed0
    python launch/benchmarks/kfold.py --config configs/esc50/resnet.py:esc10 --output runs/esc10/resnet

Arguments: `esc10` for the ten-class subset, `fold=k` the test fold; `no_specaugment` and `no_mixup` switch one part off.
Reads the published layout from $SACJAX_DATA/esc10 (or esc50), else downloads ESC-50.
"""

from sacjax import config as config_lib

MEAN, STD = -28.0, 22.0  # decibels, of all log mel cells of the clips


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, esc10=False, fold=1, no_specaugment=False, no_mixup=False)
    c = config_lib.default()
    c.checkpoint.every = 200
    s = c.supervised
    subset = "esc10" if arg.esc10 else "esc50"
    s.data.source, s.data.name = "tfds", f"esc50/{subset}"
    s.data.path = config_lib.local_data(subset)
    s.data.fold = arg.fold
    s.data.validation_fraction = (
        0.0  # every training clip trains; the last step is the one reported
    )
    s.data.sample_rate, s.data.seconds, s.data.cache = 44100, 5.0, True

    s.frontend.n_fft, s.frontend.hop_length, s.frontend.n_mels = 2048, 1024, 128
    s.frontend.normalize, s.frontend.mean, s.frontend.std = "global", MEAN, STD
    s.augment.waveform = (dict(name="shift", probability=1.0),)
    if not arg.no_specaugment:
        s.augment.spectrogram += (
            dict(name="frequency_mask", count=2, width=24),
            dict(name="time_mask", count=2, width=30),
        )
    if not arg.no_mixup:
        s.augment.spectrogram = (dict(name="mixup", alpha=1.0), *s.augment.spectrogram)

    s.model.name = "spectrogram_resnet"
    s.model.encoder = dict(depth=18, width=24)
    s.model.pooling = "mean_max"
    s.optimizer.learning_rate, s.optimizer.weight_decay, s.optimizer.warmup_fraction = (
        2e-3,
        0.05,
        0.05,
    )
    s.train.batch_size, s.train.epochs = 32, 60
    s.train.evaluate_every = 10**6  # there is no validation part to look at
    s.eval.batch_size, s.eval.overlap = 80, 0.5
    return c
