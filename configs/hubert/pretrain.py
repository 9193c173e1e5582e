"""HuBERT base as published (Hsu et al. 2021), both iterations, for a pod.

    python -m sacjax.main --config configs/hubert/pretrain.py --workdir DIR \\
        --config.first.data.path=DIR --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz speech (see `python -m sacjax prepare`). A batch is 2,800 s of
sound, as on 32 GPUs. `first` tells 100 clusters of MFCC for 250,000 updates; `pretrain` 500
clusters of its sixth layer for 400,000. The values are those of fairseq's hubert_base_librispeech;
targets are made in the step instead of beforehand, by one more forward pass. 94.7 million
parameters, 94.4 of them the encoder's, as published.
"""

import os

from sacjax import config as config_lib


def get_config(arg=""):
    config_lib.parse_arg(arg)
    c = config_lib.default(first=config_lib.stage(), pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    for p in (c.first, c.pretrain):
        p.data.source = "arrayrecord"
        p.data.path = os.path.join(config_lib.data_root(), "librispeech")
        p.data.sample_rate = 16000
        p.data.seconds = 11.0
        p.data.workers = 8
        p.data.holdout = (0.99, 0.01, 0.0)
        p.frontend.n_fft = 400
        p.frontend.n_mels = 23
        p.frontend.n_mfcc = 13
        p.frontend.normalize = "none"
        p.frontend.preemphasis = 0.97
        p.model.name = "wav2vec2"
        p.model.dtype = "bfloat16"
        p.model.encoder = dict(size="base", layer_drop=0.05)
        p.objective.name = "hubert"
        p.objective.options = dict()
        p.optimizer.learning_rate = 5e-4
        p.optimizer.schedule = "linear"
        p.optimizer.final_fraction = 0.0
        p.optimizer.warmup_steps = 32_000
        p.optimizer.weight_decay = 0.01
        p.optimizer.clip_norm = 10.0
        p.optimizer.beta2 = 0.98
        p.optimizer.eps = 1e-6
        p.train.batch_size = 256
        p.train.steps = 400_000
        p.train.log_every = 200
        p.train.evaluate_every = 10_000
        p.eval.best = "validation/loss"
        p.eval.best_mode = "min"
        p.eval.splits = ("validation",)
        p.eval.batch_size = 64
    c.first.train.steps = 250_000
    c.pretrain.objective.options.targets = "first"
    c.pretrain.objective.options.clusters = 500
    return c
