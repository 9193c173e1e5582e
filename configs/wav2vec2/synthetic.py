"""wav2vec 2.0 on synthesized sound: a masked token's code among distractors, then few labels.

    python -m sacjax.main --config configs/wav2vec2/synthetic.py --workdir runs/wav2vec2

Stages and sounds are those of configs/synthetic/few_labels.py. Argument: `shots` labels a class.
Fine-tuning holds the convolutions still, and the Transformer for its first 30 updates.
"""

from pathlib import Path

from sacjax import config as config_lib

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, shots=10)
    c = config_lib.load(f"{BASE}:encoder=wav2vec2,shots={arg.shots}")
    p = c.pretrain
    p.augment.waveform = (dict(name="gain"),)
    p.objective.name = "wav2vec2"
    p.objective.options = dict(
        codebook_entries=64,
        codebook_dim=64,
        projection_dim=64,
        negatives=30,
        mask_span=5,
        mask_probability=0.12,
        temperature_decay=0.997,
        feature_penalty=1.0,
    )
    p.eval.evaluators = (dict(name="objective"), dict(name="knn", examples=1000))
    p.optimizer.learning_rate = 2e-3
    p.optimizer.beta2 = 0.98
    p.train.batch_size = 48
    p.train.steps = 500
    for s in (p, c.scratch, c.finetune):
        s.model.pooling = "mean"
    for f in (c.scratch, c.finetune):
        f.model.encoder.update(mask_probability=0.2, mask_span=4)
        f.model.layers = "weighted"
        f.model.projection = 96
    f.optimizer.freeze = (
        ("encoder/conv", 0),
        ("encoder/(transformer|projection|positional|mask)", 30),
    )
    return c
