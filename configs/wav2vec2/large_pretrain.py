"""wav2vec 2.0 large as published (Baevski et al. 2020, on Libri-Light), for a pod.

    python -m sacjax.main --config configs/wav2vec2/large_pretrain.py --workdir DIR --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz speech (see `python -m sacjax.prepare`). A batch is 2.8 hours of sound, as on 128 GPUs.
Peak rate, temperature and the 600,000 updates are the paper's; no dropout and no layer drop are fairseq's wav2vec2_large_librivox.
"""

import os

from sacjax import config as config_lib


def get_config():
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source, p.data.path = "arrayrecord", os.path.join(config_lib.data_root(), "librilight")
    p.data.sample_rate, p.data.seconds, p.data.workers = 16000, 20.0, 8
    p.data.holdout = (0.999, 0.001, 0.0)
    p.model.name, p.model.dtype = "wav2vec2", "bfloat16"
    p.model.encoder = dict(
        size="large",
        layer_drop=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        projection_dropout=0.0,
        remat="dots",
    )
    p.objective.name = "contrastive"
    p.objective.options = dict(codebook_dim=768, projection_dim=768, temperature_end=0.1)
    p.optimizer.learning_rate, p.optimizer.schedule, p.optimizer.final_fraction = (
        3e-4,
        "linear",
        0.0,
    )
    p.optimizer.warmup_steps, p.optimizer.weight_decay, p.optimizer.clip_norm = 32_000, 0.01, 0.0
    p.optimizer.beta2, p.optimizer.eps = 0.98, 1e-6
    p.train.batch_size, p.train.steps, p.train.log_every, p.train.evaluate_every = (
        512,
        600_000,
        200,
        10_000,
    )
    p.eval.best, p.eval.best_mode, p.eval.splits, p.eval.batch_size = (
        "validation/loss",
        "min",
        ("validation",),
        64,
    )
    return c
