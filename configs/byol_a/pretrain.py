"""BYOL-A v2 as published (Niizumi et al. 2023), for a pod.

    python -m sacjax.main --config configs/byol_a/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz sound (see `python -m sacjax prepare`): published, AudioSet's two
million clips of 10 s, 100 epochs of them in crops of 0.95 s, 256 an update, Adam at 1e-4. Log-mels
of 64 bands are mixed with those of the batch (published: of the last 2,048 clips), cropped and
resized, and faded. The encoder has 6.3 million parameters, as published, its projector 13.6 and
the predictor 2.1.

The front end's mean and deviation are what the authors give for Speech Commands; set your data's.
"""

import os

from sacjax import config as config_lib


def get_config(arg=""):
    config_lib.parse_arg(arg)
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "audioset")
    p.data.sample_rate = 16000
    p.data.seconds = 0.95
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.augment.spectrogram = (
        dict(name="log_mixup", max_share=0.2),
        dict(name="resize_crop"),
        dict(name="linear_fade"),
    )
    p.frontend.n_fft = 1024
    p.frontend.hop_length = 160
    p.frontend.n_mels = 64
    p.frontend.fmin = 60.0
    p.frontend.fmax = 7800.0
    p.frontend.log = "natural"
    p.frontend.floor = 1.1920929e-07
    p.frontend.top_db = None
    p.frontend.normalize = "global"
    p.frontend.mean = -9.660292
    p.frontend.std = 4.7219563
    p.model.name = "small_cnn"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(variant="byol_a", channels=(64, 64), hidden=2048)
    p.model.pooling = "mean_max"
    p.objective.name = "byol_a"
    p.optimizer.learning_rate = 1e-4
    p.optimizer.schedule = "constant"
    p.optimizer.warmup_fraction = 0.0
    p.optimizer.weight_decay = 0.0
    p.optimizer.clip_norm = 0.0
    p.train.batch_size = 256
    p.train.epochs = 100.0
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    return c
