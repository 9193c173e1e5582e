"""COLA as published (Saeed et al. 2021), on a spectrogram ResNet, for a pod.

    python -m sacjax.main --config configs/cola/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Two random seconds of each clip, log-mel of 64 bands, a little noise; the batch of 512 clips gives
511 negatives a crop, the bilinear form compares. The paper's encoder is EfficientNet-B0 (4 million
parameters) with maximum pooling; ours is ResNet-18 (11.2, and 0.5 of the head). Reads ArrayRecord
shards of 16 kHz sound (see `sacjax prepare`).
"""

import os

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, batch=512)
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "sounds")
    p.data.sample_rate = 16000
    p.data.seconds = 10.0
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.augment.crop_seconds = 1.0
    p.augment.waveform = (dict(name="noise", low_snr_db=30.0, high_snr_db=50.0),)
    p.frontend.n_fft = 1024
    p.frontend.win_length = 400
    p.frontend.hop_length = 160
    p.frontend.n_mels = 64
    p.frontend.fmin = 60.0
    p.frontend.fmax = 7800.0
    p.frontend.power = 1.0
    p.frontend.log = "natural"
    p.frontend.floor = 1e-5
    p.model.name = "spectrogram_resnet"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(depth=18)
    p.model.pooling = "max"
    p.objective.name = "cola"
    p.optimizer.learning_rate = 1e-4
    p.optimizer.warmup_fraction = 0.02
    p.optimizer.weight_decay = 0.0
    p.train.batch_size = arg.batch
    p.train.steps = 500_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 128
    return c
