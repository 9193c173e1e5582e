"""An autoencoder on synthesized sound, plain or denoising, then few labels.

    python -m sacjax.main --config configs/autoencoder/synthetic.py --workdir runs/autoencoder

Stages and sounds are those of configs/synthetic/few_labels.py. Arguments: `encoder` (conv, dense,
or any other of spectrograms), `denoise`: from noisy spectrograms, `shots` labels a class.
"""

from pathlib import Path

from sacjax import config as config_lib

BASE = Path(__file__).parents[1] / "synthetic" / "few_labels.py"
DENSE = dict(frames=63, widths=(512, 256, 128))  # frames of a second at 8 kHz, hop 128


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="conv", denoise=False, shots=10)
    encoder = "autoencoder" if arg.encoder in ("conv", "dense") else arg.encoder
    c = config_lib.load(f"{BASE}:encoder={encoder},shots={arg.shots}")
    p = c.pretrain
    if arg.encoder == "dense":
        for s in (p, c.scratch, c.finetune):
            s.model.encoder = DENSE
    p.objective.name = "autoencoder"
    if arg.denoise:
        p.augment.waveform = (dict(name="noise"),)
        p.objective.options = dict(noise=0.3, target="clean")
    return c
