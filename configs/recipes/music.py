"""Genres of music, in GTZAN's layout; three genres of synthesized pieces where there is no data.

    sacjax train --config configs/recipes/music.py --workdir runs/music
    python launch/benchmarks/kfold.py --config configs/recipes/music.py \\
        --folds 1 2 3 4 5 6 7 8 9 10 --output runs/gtzan

Reads $SACJAX_DATA/gtzan/genres_original/GENRE/GENRE.00000.wav; a folder of three genres will do.
GTZAN has no official folds: tracks of one artist stand in a row (Sturm 2013), so `fold=k` tests on
the k-th ten of each genre, which shares fewer artists with the rest than a random split. A tenth of
the others validates. Where there is no such folder, or with `synthetic`, 300 pieces of 5 s are
made: classical, disco and jazz (sacjax/data/sources/music.py). Result: docs/recipes.md.
"""

import os

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, fold=1, synthetic=False)
    c = config_lib.default()
    s = c.supervised
    path = os.path.join(config_lib.data_root(), "gtzan", "genres_original")
    s.train.epochs = 30
    if arg.synthetic or not os.path.isdir(path):
        s.data.source = "synthetic"
        s.data.name = "music"
        s.data.examples = 300
        s.train.epochs = 10
    else:
        s.data.source = "folder"
        s.data.path = path
        s.data.fold_pattern = r"\.\d*(\d)\d\.[^.]+$"
        s.data.fold = arg.fold
        s.data.validation_fraction = 0.1
    s.data.sample_rate = 16000
    s.data.seconds = 5.0
    s.data.cache = True
    s.frontend.n_fft = 1024
    s.frontend.hop_length = 512
    s.frontend.n_mels = 64
    s.augment.waveform = (dict(name="gain"),)
    s.augment.spectrogram = (
        dict(name="mixup", alpha=0.4),
        dict(name="frequency_mask", count=2, width=8),
        dict(name="time_mask", count=2, width=16),
    )
    s.model.name = "spectrogram_resnet"
    s.model.encoder = dict(depth=18, width=16)
    s.model.pooling = "mean_max"
    s.optimizer.learning_rate = 2e-3
    s.optimizer.weight_decay = 0.05
    s.train.batch_size = 32
    s.eval.checkpoint = "best"
    return c
