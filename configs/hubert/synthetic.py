"""HuBERT on synthesized sound: clusters at masked tokens, two iterations, then few labels.

    python -m sacjax.main --config configs/hubert/synthetic.py --workdir runs/hubert

Sounds and later stages are those of configs/synthetic/few_labels.py. `first` tells clusters of
MFCC, `pretrain`, from fresh parameters, clusters of a layer of `first`. Argument: `shots` labels a
class. The encoder hears the waveform.
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
    p.objective.name = "hubert"
    p.objective.options = dict(
        clusters=50,
        kmeans_tokens=50_000,
        kmeans_starts=3,
        mask_probability=0.5,
        mask_span=4,
        mask_exact=True,
        feature_penalty=0.0,
        code_dim=96,
    )
    p.optimizer.learning_rate = 2e-3
    p.train.steps = 200
    with c.unlocked():
        c.first = p.copy_and_resolve_references()
        p.objective.options.update(targets="first", layer=2)
    c.stages = ("first", *c.stages)
    for f in (c.scratch, c.finetune):
        f.optimizer.learning_rate = 1e-3
    return c
