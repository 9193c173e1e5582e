"""A small spectrogram ResNet on ESC-50, or ESC-10, from scratch.

    python -m sacjax.main --config configs/esc50/resnet.py:esc10,fold=1 \\
        --workdir runs/esc10/resnet/fold1_seed0
    python launch/benchmarks/kfold.py --config configs/esc50/resnet.py:esc10 \\
        --output runs/esc10/resnet

Arguments: `esc10` for the ten-class subset, `fold=k` the test fold; `no_specaugment` and `no_mixup`
switch one part off; `frontend=leaf`, `sincnet` or `pcen` learns the front end with the rest (leaf
and sincnet filter every sample, too much work for a CPU at this size).

Reads the published layout from $SACJAX_DATA/esc10 (or esc50), else downloads ESC-50.
"""

from sacjax import config as config_lib

MEAN = -28.0
STD = 22.0  # decibels, of all log mel cells of the clips


def get_config(arg=""):
    arg = config_lib.parse_arg(
        arg, esc10=False, fold=1, no_specaugment=False, no_mixup=False, frontend="mel"
    )
    c = config_lib.default()
    c.checkpoint.every = 200
    s = c.supervised
    subset = "esc10" if arg.esc10 else "esc50"
    s.data.source = "tfds"
    s.data.name = f"esc50/{subset}"
    s.data.path = config_lib.local_data(subset)
    s.data.fold = arg.fold
    s.data.validation_fraction = (
        0.0  # every training clip trains; the last step is the one reported
    )
    s.data.sample_rate = 44100
    s.data.seconds = 5.0
    s.data.cache = True

    s.frontend.n_fft = 2048
    s.frontend.hop_length = 1024
    s.frontend.n_mels = 128
    s.frontend.normalize = "global"
    s.frontend.mean = MEAN
    s.frontend.std = STD
    s.augment.waveform = (dict(name="shift", probability=1.0),)
    if not arg.no_specaugment:
        s.augment.spectrogram += (
            dict(name="frequency_mask", count=2, width=24),
            dict(name="time_mask", count=2, width=30),
        )
    if arg.frontend != "mel":
        s.frontend.normalize = "clip"  # the statistics above are those of log-mel
    if not arg.no_mixup and arg.frontend == "mel":
        s.augment.spectrogram = (dict(name="mixup", alpha=1.0), *s.augment.spectrogram)
    elif not arg.no_mixup:  # before the features, which are made within the model
        s.augment.waveform += (dict(name="mixup", alpha=1.0),)

    s.model.name = "spectrogram_resnet"
    s.model.frontend = arg.frontend
    s.model.encoder = dict(depth=18, width=24)
    s.model.pooling = "mean_max"
    s.optimizer.learning_rate = 2e-3
    s.optimizer.weight_decay = 0.05
    s.optimizer.warmup_fraction = 0.05
    s.train.batch_size = 32
    s.train.epochs = 60
    s.train.evaluate_every = 10**6  # there is no validation part to look at
    s.eval.batch_size = 80
    s.eval.overlap = 0.5
    return c
