"""SimCLR on synthesized sound: two views of a clip belong together, then few labels.

    python -m sacjax.main --config configs/simclr/synthetic.py --workdir runs/simclr

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
    p.augment.waveform = (
        dict(name="speed", low_factor=0.9, high_factor=1.1),
        dict(name="shift", max_share=0.1),
        dict(name="gain"),
        dict(name="noise", low_snr_db=10.0, high_snr_db=40.0),
    )
    if arg.encoder not in ("audionet", "wav2vec2"):
        p.augment.spectrogram = (
            dict(name="frequency_mask", width=8),
            dict(name="time_mask", width=10),
        )
    p.objective.name = "simclr"
    p.objective.options = dict(temperature=0.1)
    p.train.batch_size = 128
    p.train.steps = 300
    return c
