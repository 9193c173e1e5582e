"""A small spectrogram ResNet on the Free Spoken Digit Dataset, from scratch.

    python -m sacjax.main --config configs/fsdd/resnet.py --workdir runs/fsdd/official
    python launch/benchmarks/kfold.py --config configs/fsdd/resnet.py:loso \\
        --folds 1 2 3 4 5 6 --output runs/fsdd/loso

The official protocol tests on recordings 0–4 of each digit and speaker. `loso` leaves one speaker
out instead: `fold=k` is the k-th speaker in alphabetical order. Reads $SACJAX_DATA/fsdd, else
downloads the data set.
"""

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, loso=False, fold=1)
    c = config_lib.default()
    c.checkpoint.every = 200
    s = c.supervised
    s.data.source = "tfds"
    s.data.name = "fsdd/loso" if arg.loso else "fsdd/official"
    s.data.path = config_lib.local_data("fsdd")
    if arg.loso:
        s.data.fold = arg.fold
    s.data.validation_fraction = 0.0
    s.data.sample_rate = 8000
    s.data.seconds = 1.0
    s.data.cache = True
    s.frontend.n_fft = 256
    s.frontend.hop_length = 80
    s.frontend.n_mels = 40
    s.augment.waveform = (dict(name="shift", max_share=0.1, circular=False), dict(name="gain"))
    s.augment.spectrogram = (
        dict(name="frequency_mask", count=2, width=6),
        dict(name="time_mask", count=2, width=10),
    )
    s.model.name = "spectrogram_resnet"
    s.model.encoder = dict(depth=18, width=16)
    s.optimizer.learning_rate = 2e-3
    s.optimizer.weight_decay = 0.05
    s.train.batch_size = 64
    s.train.epochs = 15
    s.train.evaluate_every = 10**6
    s.eval.batch_size = 100
    return c
