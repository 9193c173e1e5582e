"""The fully connected autoencoder of the published size, for a pod.

    python -m sacjax.main --config configs/autoencoder/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz sound (see `python -m sacjax prepare`), in clips of 100,000
samples: 391 frames of 64 bands are 25,024 inputs, which become 8,224, 2,056, 1,024, 512 and 256.
With its mirror it has 451 million weights (7.2 GB in float32 with gradients and Adam's moments):
split them over devices by --config.mesh.fsdp. It overfits any set of less than ten hours. Adam's
rate of 1e-3 is from memory of smaller ones; 100,000 updates of 512 clips are ours, not published.

Arguments: `variant` (improved or baseline), `denoise`.
"""

import os

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, variant="improved", denoise=False)
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "audioset")
    p.data.sample_rate = 16000
    p.data.seconds = 6.25
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.frontend.n_fft = 1024
    p.frontend.hop_length = 256
    p.frontend.n_mels = 64
    p.model.name = "autoencoder"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(variant=arg.variant)
    p.objective.name = "autoencoder"
    if arg.denoise:
        p.augment.waveform = (dict(name="noise"),)
        p.objective.options = dict(noise=0.3, target="clean")
    p.optimizer.learning_rate = 1e-3
    p.optimizer.warmup_fraction = 0.02
    p.train.batch_size = 512
    p.train.steps = 100_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    return c
