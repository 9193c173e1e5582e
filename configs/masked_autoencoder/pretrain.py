"""Audio-MAE base as published (Huang et al. 2022), for a pod.

    python -m sacjax.main --config configs/masked_autoencoder/pretrain.py --workdir DIR \\
        --config.pretrain.data.path=DIR

Reads ArrayRecord shards of 16 kHz sound (see `python -m sacjax prepare`): published, AudioSet's two
million clips of 10 s. 512 clips an update, 33 epochs of 3,900 updates, 3 of them warm-up. The mean
and deviation of the front end are AudioSet's. The decoder is the plain one of MAE, eight layers of
512, where Audio-MAE's best has sixteen of local attention. 111.0 million parameters, those of MAE's
ViT-B on one channel; 85.3 of them are the encoder's.
"""

import os

from sacjax import config as config_lib

EPOCH = 3_900  # updates


def get_config(arg=""):
    config_lib.parse_arg(arg)
    c = config_lib.default(pretrain=config_lib.stage())
    c.checkpoint.every = 1000
    p = c.pretrain
    p.data.source = "arrayrecord"
    p.data.path = os.path.join(config_lib.data_root(), "audioset")
    p.data.sample_rate = 16000
    p.data.seconds = 10.24
    p.data.workers = 8
    p.data.holdout = (0.99, 0.01, 0.0)
    p.augment.waveform = (
        dict(name="shift", max_share=0.5),
        dict(name="gain", low_db=-6.0, high_db=3.5),
    )
    p.frontend.n_fft = 512
    p.frontend.win_length = 400
    p.frontend.hop_length = 160
    p.frontend.center = True
    p.frontend.n_mels = 128
    p.frontend.fmin = 20.0
    p.frontend.htk = True
    p.frontend.mel_norm = "none"
    p.frontend.log = "natural"
    p.frontend.floor = 1.1920929e-07
    p.frontend.top_db = None
    p.frontend.preemphasis = 0.97
    p.frontend.normalize = "global"
    p.frontend.mean = -4.2677393
    p.frontend.std = 2 * 4.5689974
    p.model.name = "spectrogram_transformer"
    p.model.dtype = "bfloat16"
    p.model.encoder = dict(size="base", patch_frames=16, patch_bands=16)
    p.objective.name = "masked_autoencoder"
    p.objective.options = dict(mask_ratio=0.8, decoder_width=512, decoder_depth=8, decoder_heads=16)
    p.optimizer.learning_rate = 4e-4
    p.optimizer.schedule = "cosine"
    p.optimizer.final_fraction = 0.0
    p.optimizer.warmup_steps = 3 * EPOCH
    p.optimizer.weight_decay = 1e-4
    p.optimizer.clip_norm = 0.0
    p.optimizer.beta2 = 0.95
    p.train.batch_size = 512
    p.train.steps = 33 * EPOCH
    p.train.log_every = 200
    p.train.evaluate_every = 10_000
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("validation",)
    p.eval.batch_size = 64
    return c
