"""Mockingjay and TERA on synthesized sound: mend spectrograms, then few labels.

    python -m sacjax.main --config configs/masked_prediction/synthetic.py \\
        --workdir runs/masked_prediction

Stages and sounds are those of configs/synthetic/few_labels.py. Arguments: `method` (tera or
mockingjay), `shots` labels a class.
"""

from pathlib import Path

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"
METHODS = {"tera": dict(band_share=0.2), "mockingjay": dict(band_share=0.0)}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, method="tera", shots=10)
    if arg.method not in METHODS:
        raise UserError(f"method is '{arg.method}'{nearest(arg.method, METHODS)}")
    c = config_lib.load(f"{BASE}:encoder=causal_transformer,shots={arg.shots}")
    p = c.pretrain
    for s in (p, c.scratch, c.finetune):
        s.model.encoder.causal = False
    p.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
    p.objective.name = "masked_prediction"
    p.objective.options = METHODS[arg.method]
    p.train.batch_size = 32
    for f in (c.scratch, c.finetune):
        f.optimizer.learning_rate = 1e-3
    return c
