"""EAT on synthesized sound: a teacher's patches from masked clones, then few labels.

    python -m sacjax.main --config configs/eat/synthetic.py --workdir runs/eat

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
    p.objective.name = "eat"
    p.objective.options = dict(
        clones=4,
        mask_ratio=0.75,
        block=3,
        decoder_depth=2,
        teacher_decay=0.99,
        teacher_decay_end=0.9998,
    )
    p.optimizer.learning_rate = 5e-4
    p.optimizer.beta2 = 0.95
    p.train.steps = 1000
    for f in (c.scratch, c.finetune):
        f.optimizer.learning_rate = 1e-3
    return c
