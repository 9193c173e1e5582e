"""A vocoder of Vocos's size (Siuzdak 2023) without its adversaries, for a pod.

    python -m sacjax.main --config configs/inversion/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 24 kHz speech (see `python -m sacjax prepare`), in crops of 16,384
samples, and makes the waveform straight from 100 log-mel bands: 8 ConvNeXt blocks of 512 channels,
1,536 inside, 13.5 million parameters as published. Sizes, rate and the number of updates are those
of vocos.yaml; the batch is larger than its 16, so that it divides over any slice. Without
adversaries the voice stays buzzy. Argument: `encoder` makes it from the frames of a ResNet-18,
which then learns.
"""

import os

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder=False)
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "libritts")
    p.data.sample_rate = 24000
    p.data.seconds = 16384 / 24000
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.frontend.n_fft = 1024
    p.frontend.hop_length = 256
    p.frontend.n_mels = 100
    p.frontend.power = 1.0
    p.frontend.log = "natural"
    p.frontend.floor = 1e-7
    p.frontend.normalize = "none"
    p.model.name = "spectrogram_resnet"
    p.model.encoder = dict(depth=18, stem="small", stem_stride=2)
    p.model.dtype = "bfloat16"
    p.objective.name = "inversion"
    p.objective.options = dict(
        source="encoder" if arg.encoder else "spectrogram",
        mel_weight=45.0,
    )
    p.optimizer.learning_rate = 5e-4
    p.optimizer.beta1 = 0.8
    p.optimizer.beta2 = 0.9
    p.optimizer.final_fraction = 0.0
    p.train.batch_size = 512
    p.train.steps = 1_000_000
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    return c
