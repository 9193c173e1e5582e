"""SimCLR for audio (Fonseca et al. 2021, "Unsupervised Contrastive Learning of Sound Events").

    python -m sacjax.main --config configs/simclr/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Two random seconds of each clip, log-mel of 96 bands, another clip mixed behind, a resized crop and
noise; ResNet-18 (11.2 million parameters), mean and maximum over time. A batch is 128 clips there;
on a pod a larger one gives more negatives, and the rate grows with its square root. Reads
ArrayRecord shards of 22.05 kHz sound (see `sacjax prepare`).
"""

import os

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, batch=1024)
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "sounds")
    p.data.sample_rate = 22050
    p.data.seconds = 10.0
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.augment.crop_seconds = 1.0
    p.augment.waveform = (
        dict(name="gain"),
        dict(name="noise", low_snr_db=20.0, high_snr_db=50.0),
    )
    p.augment.spectrogram = (
        dict(name="log_mixup", max_share=0.05),
        dict(name="resize_crop", low_scale=0.8, high_scale=1.0, canvas=1.0),
    )
    p.frontend.n_fft = 2048
    p.frontend.win_length = 660
    p.frontend.hop_length = 220
    p.frontend.n_mels = 96
    p.frontend.fmin = 50.0
    p.frontend.fmax = 10500.0
    p.model.name = "spectrogram_resnet"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(depth=18)
    p.model.pooling = "mean_max"
    p.objective.name = "simclr"
    p.objective.options = dict(hidden=512, projection_dim=128, temperature=0.2)
    p.optimizer.learning_rate = 1e-3 * (arg.batch / 128) ** 0.5
    p.optimizer.warmup_fraction = 0.05
    p.optimizer.weight_decay = 1e-4
    p.train.batch_size = arg.batch
    p.train.steps = 100_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 128
    return c
