"""A small spectrogram ResNet on the Free Spoken Digit Dataset, from scratch.

    python -m sacjax.main --config configs/fsdd/resnet.py --workdir runs/fsdd/official
    python launch/benchmarks/kfold.py --config configs/fsdd/resnet.py:loso --folds 1 2 3 4 5 6 --output runs/fsdd/loso

The official protocol tests on recordings 0–4 of each digit and speaker. `loso` leaves one speaker out instead: `fold=k` is the k-th
speaker in alphabetical order. Reads $SACJAX_DATA/fsdd, else downloads the data set.
"""

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, loso=False, fold=1)
    c = config_lib.default()
    c.checkpoint.every = 200
    s = c.supervised
    s.data.source, s.data.name = "tfds", "fsdd/loso" if arg.loso else "fsdd/official"
    s.data.path = config_lib.local_data("fsdd")
    if arg.loso:
        s.data.fold = arg.fold
    s.data.validation_fraction = 0.0
    s.data.sample_rate, s.data.seconds, s.data.cache = 8000, 1.0, True
    s.frontend.n_fft, s.frontend.hop_length, s.frontend.n_mels = 256, 80, 40
    s.augment.waveform = (dict(name="shift", max_share=0.1, circular=False), dict(name="gain"))
    s.augment.spectrogram = (
        dict(name="frequency_mask", count=2, width=6),
        dict(name="time_mask", count=2, width=10),
    )
    s.model.name = "spectrogram_resnet"
    s.model.encoder = dict(depth=18, width=16)
    s.optimizer.learning_rate, s.optimizer.weight_decay = 2e-3, 0.05
    s.train.batch_size, s.train.epochs = 64, 15
    s.train.evaluate_every = 10**6
    s.eval.batch_size = 100
    return c
