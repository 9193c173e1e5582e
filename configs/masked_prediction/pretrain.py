"""TERA base or Mockingjay as published (Liu et al. 2021, 2020; values of s3prl's), for a pod.

    python -m sacjax.main --config configs/masked_prediction/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz speech (see `python -m sacjax prepare`). 80 log-mels of 25 ms
every 10 ms, normalized over each utterance; three post-norm layers of width 768 that hear the whole
utterance (21.3 million parameters as published, 0.7 of the head), 1 M updates of 32 utterances.
Argument: `method` (tera; mockingjay: twelve layers, no masked bands; its deltas of the log-mels are
left out).
"""

import os

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

METHODS = {
    "tera": (dict(), dict(band_share=0.2)),
    "mockingjay": (dict(depth=12), dict(band_share=0.0)),
}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, method="tera")
    if arg.method not in METHODS:
        raise UserError(f"method is '{arg.method}'{nearest(arg.method, METHODS)}")
    encoder, options = METHODS[arg.method]
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "librispeech")
    p.data.sample_rate = 16000
    p.data.seconds = 15.0
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.frontend.n_fft = 512
    p.frontend.win_length = 400
    p.frontend.hop_length = 160
    p.frontend.n_mels = 80
    p.frontend.log = "natural"
    p.frontend.top_db = None
    p.frontend.normalize = "band"
    p.model.name = "causal_transformer"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(size="tera", causal=False) | encoder
    p.objective.name = "masked_prediction"
    p.objective.options = options
    p.optimizer.learning_rate = 2e-4
    p.optimizer.schedule = "linear"
    p.optimizer.final_fraction = 0.0
    p.optimizer.warmup_fraction = 0.07
    p.optimizer.weight_decay = 0.0
    p.optimizer.clip_norm = 5.0
    p.train.batch_size = 32
    p.train.steps = 1_000_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 32
    return c
