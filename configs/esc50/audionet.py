"""A raw-wave CNN (the AudioNet family) on ESC-50, or ESC-10, from scratch.

    python -m sacjax.main --config configs/esc50/audionet.py:esc10,fold=1 \\
        --workdir runs/esc10/audionet/fold1_seed0
    python launch/benchmarks/kfold.py --config configs/esc50/audionet.py:esc10 \\
        --output runs/esc10/audionet

Arguments: `esc10` for the ten-class subset, `fold=k` the test fold, `no_mixup`; `article` trains
the source article's own recipe instead: the four-convolution network on whole clips, without
augmentation, by Adam at 1e-5, for 20 epochs.
"""

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, esc10=False, fold=1, no_mixup=False, article=False)
    c = config_lib.default()
    c.checkpoint.every = 200
    s = c.supervised
    subset = "esc10" if arg.esc10 else "esc50"
    s.data.source = "tfds"
    s.data.name = f"esc50/{subset}"
    s.data.path = config_lib.local_data(subset)
    s.data.fold = arg.fold
    s.data.validation_fraction = (
        0.0  # every training clip trains; the last step is the one reported
    )
    s.data.sample_rate = 16000
    s.data.cache = True
    s.model.name = "audionet"
    s.train.batch_size = 32
    s.train.evaluate_every = 10**6  # there is no validation part to look at
    s.eval.batch_size = 80
    if arg.article:
        s.data.seconds = 5.0
        s.model.encoder = dict(variant="audionet")
        s.optimizer.learning_rate = 1e-5
        s.optimizer.schedule = "constant"
        s.optimizer.warmup_fraction = 0.0
        s.optimizer.weight_decay = 0.0
        s.train.epochs = 20
        return c
    s.data.seconds = 5.0
    s.model.encoder = dict(variant="m11", width=0.5)
    s.model.pooling = "mean_max"
    s.augment.waveform = (
        dict(name="shift", probability=1.0),
        dict(name="gain", low_db=-6.0, high_db=6.0),
        dict(name="polarity", probability=0.5),
    )
    if (
        not arg.no_mixup
    ):  # between-class learning (Tokozume et al. 2018): mixed so that both are equally loud at 1/2
        s.augment.waveform += (dict(name="mixup", alpha=1.0, between_class=True),)
    s.optimizer.learning_rate = 2e-3
    s.optimizer.weight_decay = 0.05
    s.train.epochs = 60
    return c
