"""wav2vec 2.0 base as published (Baevski et al. 2020), for a pod.

    python -m sacjax.main --config configs/wav2vec2/base_pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz speech (see `python -m sacjax prepare`). A batch is 1.6 hours of
sound, as on 64 GPUs, in 512 clips, so that it divides over any slice; there are 400,000
updates. The values are those of fairseq's wav2vec2_base_librispeech.

With fewer devices, use optimizer.accumulation, or a smaller batch with optimizer.schedule_count:
the schedule then advances by the masked frames seen, as it does in the recipe. The argument
`small_batch` sets this up for 16 clips an update.
"""

import os

from sacjax import config as config_lib

MASKED_FRAMES = 512 * 269  # of one update: 512 clips of 549 frames, 49 % of them masked


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, small_batch=False)
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "librispeech")
    p.data.sample_rate = 16000
    p.data.seconds = 11.0
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.model.name = "wav2vec2"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(size="base", layer_drop=0.05)
    p.objective.name = "wav2vec2"
    p.objective.options = dict(feature_penalty=10.0, feature_dropout=0.1)
    p.optimizer.learning_rate = 5e-4
    p.optimizer.schedule = "linear"
    p.optimizer.final_fraction = 0.0
    p.optimizer.warmup_steps = 32_000
    p.optimizer.weight_decay = 0.01
    p.optimizer.clip_norm = 0.0
    p.optimizer.beta2 = 0.98
    p.optimizer.eps = 1e-6
    p.train.batch_size = 512
    p.train.steps = 400_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 64
    if arg.small_batch:
        p.train.batch_size = 16
        p.train.steps = 400_000
        p.optimizer.schedule_count = MASKED_FRAMES
        p.optimizer.schedule_steps = 400_000 * 16 // 512
        p.optimizer.warmup_steps = 32_000 * 16 // 512
        p.optimizer.clip_norm = 1.0
        p.optimizer.learning_rate = 1e-4
        p.objective.options.temperature_decay = 0.9999
    return c
