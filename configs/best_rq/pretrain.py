"""BEST-RQ on a wave encoder of the size of wav2vec 2.0 base, for a pod.

    python -m sacjax.main --config configs/best_rq/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz speech (see `python -m sacjax prepare`). The quantizer, its input
and the optimizer are those of SpeechBrain's recipe (80 log-mels, normalized per utterance, 8,192
codes of 16 numbers, AdamW at 8e-4 after 25,000 updates of warm-up, 300,000 updates of 800 s); that
has a conformer of 40 ms a token, this encoder 20 ms, so two log-mels a token and spans of 200 ms
over 60 % of the tokens. The encoder has wav2vec 2.0 base's 94.4 million parameters, the head 6.3.
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
    p.data.seconds = 12.5
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.frontend.n_fft = 400
    p.frontend.n_mels = 80
    p.frontend.normalize = "band"
    p.model.name = "wav2vec2"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(size="base", layer_drop=0.05)
    p.objective.name = "best_rq"
    p.objective.options = dict(mask_probability=0.6, mask_span=10)
    p.optimizer.learning_rate = 8e-4
    p.optimizer.schedule = "linear"
    p.optimizer.final_fraction = 0.0
    p.optimizer.warmup_steps = 25_000
    p.optimizer.weight_decay = 0.01
    p.optimizer.clip_norm = 10.0
    p.optimizer.beta2 = 0.98
    p.optimizer.eps = 1e-9
    p.train.batch_size = 64
    p.train.steps = 300_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 64
    return c
