"""Mockingjay and TERA on the quickstart's synthesized sound: mend spectrograms, then few labels.

    python -m sacjax.main --config configs/masked_prediction/synthetic.py \\
        --workdir runs/masked_prediction

Arguments: `method` (tera or mockingjay), `shots` labels a class. `pretrain` hears the training
clips without labels and is probed by nearest neighbours and a linear classifier; `scratch` trains
the network on few labels alone; `finetune` starts from the pretrained encoder.
"""

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

METHODS = {"tera": dict(band_share=0.2), "mockingjay": dict(band_share=0.0)}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, method="tera", shots=10)
    if arg.method not in METHODS:
        raise UserError(f"method is '{arg.method}'{nearest(arg.method, METHODS)}")
    stages = dict(
        pretrain=config_lib.stage(), scratch=config_lib.stage(), finetune=config_lib.stage()
    )
    c = config_lib.default(**stages)
    for s in stages.values():
        s.data.source = "synthetic"
        s.data.examples = 2800
        s.data.holdout = (0.7, 0.1, 0.2)
        s.data.cache = True
        s.data.sample_rate = 8000
        s.frontend.n_fft = 256
        s.frontend.hop_length = 128
        s.frontend.n_mels = 48
        s.model.name = "causal_transformer"
        s.model.encoder = dict(size="mini", depth=3, causal=False)
        s.model.pooling = "mean_max"
        s.train.batch_size = 40
        s.train.evaluate_every = 10**6
        s.eval.batch_size = 100
        s.eval.splits = ("test",)
    p = stages["pretrain"]
    p.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
    p.objective.name = "masked_prediction"
    p.objective.options = METHODS[arg.method]
    p.optimizer.learning_rate = 1e-3
    p.optimizer.warmup_fraction = 0.1
    p.train.batch_size = 32
    p.train.steps = 400
    p.eval.evaluators = (dict(name="objective"), dict(name="knn"), dict(name="linear"))
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    for f in (stages["scratch"], stages["finetune"]):
        f.data.labels_per_class = arg.shots
        f.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
        f.optimizer.learning_rate = 1e-3
        f.optimizer.warmup_fraction = 0.1
        f.train.steps = 160
    stages["finetune"].init_from = "pretrain"
    return c
