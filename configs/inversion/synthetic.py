"""Inversion on the quickstart's synthesized sound: pretrained without labels, then few.

    python -m sacjax.main --config configs/inversion/synthetic.py --workdir runs/inversion

Arguments: `encoder` (spectrogram_resnet or small_cnn), `shots` labels a class; `spectrogram` makes
the waveform straight from the log-mel spectrogram, without an encoder, and stops there. `pretrain`
gives back the waveform of the training clips; the report plays some of the test clips beside what
was heard and Griffin-Lim's. `scratch` trains the network on few labels alone; `finetune` starts
from the pretrained encoder.
"""

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

ENCODERS = {
    "spectrogram_resnet": dict(depth=18, width=16, stem="small", stem_stride=2),
    "small_cnn": dict(),
}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="small_cnn", spectrogram=False, shots=10)
    if arg.encoder not in ENCODERS:
        raise UserError(f"encoder is '{arg.encoder}'{nearest(arg.encoder, ENCODERS)}")
    stages = dict(pretrain=config_lib.stage())
    if not arg.spectrogram:
        stages |= dict(scratch=config_lib.stage(), finetune=config_lib.stage())
    c = config_lib.default(**stages)
    for s in stages.values():
        s.data.source = "synthetic"
        s.data.examples = 2800
        s.data.holdout = (0.7, 0.1, 0.2)
        s.data.cache = True
        s.data.sample_rate = 8000
        s.frontend.n_fft = 256
        s.frontend.hop_length = 64
        s.frontend.n_mels = 48
        s.model.name = arg.encoder
        s.model.encoder = ENCODERS[arg.encoder]
        s.model.pooling = "mean_max"
        s.train.batch_size = 40
        s.train.evaluate_every = 10**6
        s.eval.batch_size = 100
        s.eval.splits = ("test",)
    p = stages["pretrain"]
    p.augment.waveform = (dict(name="noise", probability=0.5),)
    p.objective.name = "inversion"
    p.objective.options = dict(
        source="spectrogram" if arg.spectrogram else "encoder",
        width=96,
        hidden=192,
        depth=3,
    )
    p.optimizer.learning_rate = 2e-3
    p.optimizer.warmup_fraction = 0.1
    p.train.batch_size = 32
    p.train.steps = 400
    p.eval.evaluators = (dict(name="objective"), dict(name="knn"), dict(name="linear"))
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    for name in ("scratch", "finetune"):
        if name in stages:
            f = stages[name]
            f.data.labels_per_class = arg.shots
            f.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
            f.optimizer.learning_rate = 3e-3
            f.optimizer.warmup_fraction = 0.1
            f.train.steps = 160
    if "finetune" in stages:
        stages["finetune"].init_from = "pretrain"
    return c
