"""Inversion on synthesized sound: the waveform from an encoder's frames, then few labels.

    python -m sacjax.main --config configs/inversion/synthetic.py --workdir runs/inversion

Stages and sounds are those of configs/synthetic/few_labels.py. Arguments: `encoder` (any of
spectrograms), `shots` labels a class; `spectrogram` makes the waveform straight from the log-mel
spectrogram, without an encoder, and stops there. The report plays some of the test clips beside
what was heard and Griffin-Lim's.
"""

from pathlib import Path

from sacjax import config as config_lib

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="small_cnn", spectrogram=False, shots=10)
    c = config_lib.load(f"{BASE}:encoder={arg.encoder},shots={arg.shots}")
    p = c.pretrain
    for s in (p, c.scratch, c.finetune):
        s.frontend.hop_length = 64
    p.augment.waveform = (dict(name="noise", probability=0.5),)
    p.objective.name = "inversion"
    p.objective.options = dict(
        source="spectrogram" if arg.spectrogram else "encoder",
        width=96,
        hidden=192,
        depth=3,
    )
    p.optimizer.learning_rate = 2e-3
    p.train.batch_size = 32
    if arg.spectrogram:
        c.stages = ("pretrain",)
    return c
