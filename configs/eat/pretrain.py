"""EAT base as published (Chen et al. 2024), for a pod.

    python -m sacjax.main --config configs/eat/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz sound (see `python -m sacjax prepare`): published, AudioSet's two
million clips of 10 s. 48 clips an update, each masked 16 times, as on four GPUs; 400,000 updates.
The mean and deviation of the front end are AudioSet's. 87.8 million parameters as published (88),
85.3 of them the encoder's.
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
    p.data.seconds = 10.24
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.frontend.n_fft = 512
    p.frontend.win_length = 400
    p.frontend.hop_length = 160
    p.frontend.center = True
    p.frontend.n_mels = 128
    p.frontend.fmin = 20.0
    p.frontend.htk = True
    p.frontend.mel_norm = "none"
    p.frontend.log = "natural"
    p.frontend.floor = 1.1920929e-07
    p.frontend.top_db = None
    p.frontend.preemphasis = 0.97
    p.frontend.normalize = "global"
    p.frontend.mean = -4.2677393
    p.frontend.std = 2 * 4.5689974
    p.model.name = "spectrogram_transformer"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(size="base", patch_frames=16, patch_bands=16, pre_norm=False)
    p.objective.name = "eat"
    p.objective.options = dict(utterance_weight=1.0)
    p.optimizer.learning_rate = 5e-4
    p.optimizer.schedule = "cosine"
    p.optimizer.final_fraction = 0.0
    p.optimizer.warmup_steps = 53_333
    p.optimizer.weight_decay = 0.05
    p.optimizer.clip_norm = 4.0
    p.optimizer.beta2 = 0.95
    p.train.batch_size = 48
    p.train.steps = 400_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 64
    return c
