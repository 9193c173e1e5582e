"""Spoken language in VoxLingua107's layout, by videos never heard.

    sacjax train --config configs/recipes/language.py --workdir runs/language \\
        --config.supervised.data.path=DIR

DIR/eo/0aBc__U__S1---0010.100-0015.900.wav: a folder for each language, and before `__U__` the video
that a piece is cut from, all of whose pieces go to one part. 80 % of the videos train, a tenth
chooses the checkpoint, a tenth tests. About 2 % of the set's labels are wrong (Valk and Alumäe
2021). Its own `dev` is a folder of the same layout, which must not lie in DIR; on all of it:

    sacjax train --mode=eval --workdir runs/language --split all \\
        --config.supervised.data.path=DEV

Result: docs/recipes.md.
"""

from sacjax import config as config_lib


def get_config():
    c = config_lib.default()
    s = c.supervised
    s.data.source = "folder"
    s.data.group_pattern = r"^[^/]+/(.+?)__U__"
    s.data.holdout = (0.8, 0.1, 0.1)
    s.data.sample_rate = 16000
    s.data.seconds = 4.0
    s.data.balance = "over"
    s.frontend.n_mels = 64
    s.augment.waveform = (
        dict(name="speed", low_factor=0.9, high_factor=1.1),
        dict(name="gain"),
        dict(name="noise", probability=0.5),
    )
    s.augment.spectrogram = (
        dict(name="frequency_mask", count=2, width=8),
        dict(name="time_mask", count=2, width=24),
    )
    s.model.name = "spectrogram_resnet"
    s.model.encoder = dict(depth=18, width=32)
    s.model.pooling = "statistics"
    s.optimizer.learning_rate = 1e-3
    s.optimizer.weight_decay = 0.05
    s.train.batch_size = 64
    s.train.epochs = 30
    s.eval.checkpoint = "best"
    return c
