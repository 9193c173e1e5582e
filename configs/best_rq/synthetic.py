"""BEST-RQ on synthesized sound: random codes of masked log-mels, then few labels.

    python -m sacjax.main --config configs/best_rq/synthetic.py --workdir runs/best_rq

Stages and sounds are those of configs/synthetic/few_labels.py. Argument: `shots` labels a class.
The encoder hears the waveform.
"""

from pathlib import Path

from sacjax import config as config_lib

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, shots=10)
    c = config_lib.load(f"{BASE}:encoder=wav2vec2,shots={arg.shots}")
    p = c.pretrain
    for s in (p, c.scratch, c.finetune):
        s.frontend.n_fft = 256
        s.frontend.n_mels = 48
    p.augment.waveform = (dict(name="gain"), dict(name="noise"))
    p.objective.name = "best_rq"
    p.objective.options = dict(codes=256, codebooks=4, stack=2, mask_probability=0.5, mask_span=4)
    p.optimizer.learning_rate = 2e-3
    for f in (c.scratch, c.finetune):
        f.optimizer.learning_rate = 1e-3
    return c
