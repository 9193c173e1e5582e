"""APC on synthesized sound: predict the frame n ahead, then few labels.

    python -m sacjax.main --config configs/apc/synthetic.py --workdir runs/apc

Stages and sounds are those of configs/synthetic/few_labels.py. Arguments: `encoder` (gru or
causal_transformer), `codes` > 0 for VQ-APC, `shots` labels a class.
"""

from pathlib import Path

from sacjax import config as config_lib

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="gru", codes=0, shots=10)
    c = config_lib.load(f"{BASE}:encoder={arg.encoder},shots={arg.shots}")
    p = c.pretrain
    p.augment.waveform = (dict(name="gain"), dict(name="noise", probability=0.5))
    p.objective.name = "apc"
    p.objective.options = dict(ahead=3, target="clean", codebook_entries=arg.codes)
    p.train.batch_size = 32
    return c
