"""data2vec base for speech as published (Baevski et al. 2022), for a pod.

    python -m sacjax.main --config configs/data2vec/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz speech (see `python -m sacjax prepare`). A batch is 3,800 s of
sound, as on 16 GPUs; there are 400,000 updates. The values are those of fairseq's
base_librispeech.yaml; its tri-stage schedule (3 % up, 90 % flat, 7 % down) is a cosine here. 93.8
million parameters, 93.2 of them the encoder's, as published, and as many that follow as teacher.
"""

import os

from sacjax import config as config_lib


def get_config(arg=""):
    config_lib.parse_arg(arg)
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "librispeech")
    p.data.sample_rate = 16000
    p.data.seconds = 15.0
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.model.name = "wav2vec2"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(
        size="base",
        layer_drop=0.05,
        conv_norm="layer",
        normalize_input=True,
        feature_gradient_scale=1.0,
        positional_layers=5,
        positional_kernel=19,
    )
    p.objective.name = "data2vec"
    p.objective.options = dict(teacher_ramp=30_000.0)
    p.optimizer.learning_rate = 5e-4
    p.optimizer.schedule = "cosine"
    p.optimizer.final_fraction = 0.0
    p.optimizer.warmup_steps = 12_000
    p.optimizer.weight_decay = 0.01
    p.optimizer.clip_norm = 0.0
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
    return c
