"""data2vec on synthesized sound: a teacher's top layers at masked tokens, then few labels.

    python -m sacjax.main --config configs/data2vec/synthetic.py --workdir runs/data2vec

Stages and sounds are those of configs/synthetic/few_labels.py. Argument: `shots` labels a class.
The encoder hears the waveform; its norms and positions are those of data2vec.
"""

from pathlib import Path

from sacjax import config as config_lib

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"
NORMS = dict(
    conv_norm="layer",
    normalize_input=True,
    pre_norm=False,
    positional_kernel=5,
    positional_layers=3,
)


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, shots=10)
    c = config_lib.load(f"{BASE}:encoder=wav2vec2,shots={arg.shots}")
    p = c.pretrain
    for s in (p, c.scratch, c.finetune):
        s.model.encoder.update(NORMS)
    p.augment.waveform = (dict(name="gain"), dict(name="noise"))
    p.objective.name = "data2vec"
    p.objective.options = dict(
        top_layers=3,
        mask_probability=0.5,
        mask_span=4,
        mask_exact=True,
        clones=2,
        teacher_decay=0.99,
        teacher_decay_end=0.999,
        teacher_ramp=0.5,
    )
    for f in (c.scratch, c.finetune):
        f.optimizer.learning_rate = 1e-3
    return c
