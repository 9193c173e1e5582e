"""wav2vec 2.0 large as published (Baevski et al. 2020, on Libri-Light), for a pod.

    python -m sacjax.main --config configs/wav2vec2/large_pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz speech (see `python -m sacjax prepare`). A batch is 2.8 hours of
sound, as on 128 GPUs. Peak rate, temperature and the 600,000 updates are the paper's; no dropout
and no layer drop are fairseq's wav2vec2_large_librivox.
"""

import os

from sacjax import config as config_lib


def get_config():
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "librilight")
    p.data.sample_rate = 16000
    p.data.seconds = 20.0
    p.data.workers = 8
    p.data.holdout = (0.999, 0.001, 0.0)
    p.model.name = "wav2vec2"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(
        size="large",
        layer_drop=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        projection_dropout=0.0,
        remat="dots",
    )
    p.objective.name = "wav2vec2"
    p.objective.options = dict(codebook_dim=768, projection_dim=768, temperature_end=0.1)
    p.optimizer.learning_rate = 3e-4
    p.optimizer.schedule = "linear"
    p.optimizer.final_fraction = 0.0
    p.optimizer.warmup_steps = 32_000
    p.optimizer.weight_decay = 0.01
    p.optimizer.clip_norm = 0.0
    p.optimizer.beta2 = 0.98
    p.optimizer.eps = 1e-6
    p.train.batch_size = 512
    p.train.steps = 600_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 64
    return c
