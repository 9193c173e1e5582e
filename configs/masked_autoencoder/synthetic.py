"""A masked autoencoder of log-mel patches on synthesized sound, then few labels.

    python -m sacjax.main --config configs/masked_autoencoder/synthetic.py \\
        --workdir runs/masked_autoencoder

Stages and sounds are those of configs/synthetic/few_labels.py. Argument: `shots` labels a class.
"""

from pathlib import Path

from sacjax import config as config_lib

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, shots=10)
    c = config_lib.load(f"{BASE}:encoder=spectrogram_transformer,shots={arg.shots}")
    p = c.pretrain
    p.augment.waveform = (dict(name="shift", max_share=0.5), dict(name="gain"))
    p.objective.name = "masked_autoencoder"
    p.objective.options = dict(mask_ratio=0.75)
    p.optimizer.beta2 = 0.95
    p.train.steps = 1000
    for f in (c.scratch, c.finetune):
        f.optimizer.learning_rate = 1e-3
    return c
