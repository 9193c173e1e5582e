"""Your own recordings: a folder with one sub-folder of sound files for each label.

    python -m sacjax.main --config configs/folder.py --workdir runs/mine \\
        --config.supervised.data.path=DIR

A spectrogram ResNet with mixup and SpecAugment on 3 s crops at 16 kHz; 60 % of the clips train, 20
% choose the best checkpoint, 20 % test, stratified by label. For a csv with `filename,label` set
data.source=manifest.
"""

from sacjax import config as config_lib


def get_config():
    c = config_lib.default()
    s = c.supervised
    s.data.source = "folder"
    s.data.sample_rate = 16000
    s.data.seconds = 3.0
    s.augment.waveform = (dict(name="shift", probability=0.5), dict(name="gain", probability=0.5))
    s.augment.spectrogram = (
        dict(name="mixup", alpha=0.4),
        dict(name="frequency_mask", count=2, width=12),
        dict(name="time_mask", count=2, width=24),
    )
    s.model.name = "spectrogram_resnet"
    s.model.encoder = dict(depth=18, width=32)
    s.optimizer.learning_rate = 2e-3
    s.optimizer.weight_decay = 0.05
    s.train.batch_size = 32
    s.train.epochs = 40
    s.eval.checkpoint = "best"
    return c
