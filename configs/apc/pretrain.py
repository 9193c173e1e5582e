"""APC as published (Chung et al. 2019; values of s3prl's config), for a pod.

    python -m sacjax.main --config configs/apc/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz speech (see `python -m sacjax prepare`). 80 log-mels of 25 ms
every 10 ms, normalized over each utterance; 100 epochs of LibriSpeech's 360 hours, 32 utterances a
batch. Arguments: `encoder` (gru, or causal_transformer as Chung and Glass 2020 have it), `ahead`
frames, `codes` (512: VQ-APC). 4.1 million parameters with the head, as published.

The author's losses after 100 epochs: n = 1 0.53, 2 0.73, 3 0.87, 5 1.09, 10 1.38, 20 1.59.
With more devices, use a larger batch and a rate that grows with it, such as
--config.pretrain.train.batch_size=512 --config.pretrain.optimizer.learning_rate=1e-3.
"""

import os

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

ENCODERS = {"gru": dict(width=512, layers=3), "causal_transformer": dict(size="base")}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="gru", ahead=5, codes=0)
    if arg.encoder not in ENCODERS:
        raise UserError(f"encoder is '{arg.encoder}'{nearest(arg.encoder, ENCODERS)}")
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
    p.model.name = arg.encoder
    p.model.encoder = ENCODERS[arg.encoder]
    p.objective.name = "apc"
    p.objective.options = dict(ahead=arg.ahead, codebook_entries=arg.codes)
    p.optimizer.learning_rate = 1e-4
    p.optimizer.schedule = "constant"
    p.optimizer.warmup_fraction = 0.0
    p.optimizer.weight_decay = 0.0
    p.optimizer.clip_norm = 5.0
    p.train.batch_size = 32
    p.train.epochs = 100.0
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 32
    return c
