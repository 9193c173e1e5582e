"""BYOL-A on synthesized sound: any encoder, pretrained without labels, then few.

    python -m sacjax.main --config configs/byol_a/synthetic.py --workdir runs/byol_a

Stages and sounds are those of configs/synthetic/few_labels.py. Arguments: `encoder` (any), `shots`
labels a class.
"""

from pathlib import Path

from sacjax import config as config_lib

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="spectrogram_resnet", shots=10)
    c = config_lib.load(f"{BASE}:encoder={arg.encoder},shots={arg.shots}")
    p = c.pretrain
    p.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
    if arg.encoder not in ("audionet", "wav2vec2"):
        p.augment.spectrogram = (
            dict(name="log_mixup", max_share=0.4),
            dict(name="resize_crop"),
            dict(name="linear_fade"),
        )
    p.objective.name = "byol_a"
    p.objective.options = dict(hidden=512, projection_dim=128, teacher_decay=0.99)
    return c
