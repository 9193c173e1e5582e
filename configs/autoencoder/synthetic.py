"""An autoencoder on the quickstart's synthesized sound: pretrained without labels, then few.

    python -m sacjax.main --config configs/autoencoder/synthetic.py --workdir runs/autoencoder

Arguments: `encoder` (dense, conv, spectrogram_resnet or small_cnn), `denoise`, `shots` labels a
class. `pretrain` reconstructs the spectrograms of the training clips, with `denoise` from noisy
ones, and is probed by nearest neighbours and a linear classifier; `scratch` trains the network on
few labels alone; `finetune` starts from the pretrained encoder.
"""

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

FRAMES = 63  # of a second at 8 kHz, hop 128
ENCODERS = {
    "dense": ("autoencoder", dict(frames=FRAMES, widths=(512, 256, 128))),
    "conv": ("autoencoder", dict(kind="conv", channels=(16, 32, 64), bottleneck=128)),
    "spectrogram_resnet": (
        "spectrogram_resnet",
        dict(depth=18, width=16, stem="small", stem_stride=2),
    ),
    "small_cnn": ("small_cnn", dict()),
}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="conv", denoise=False, shots=10)
    if arg.encoder not in ENCODERS:
        raise UserError(f"encoder is '{arg.encoder}'{nearest(arg.encoder, ENCODERS)}")
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
        s.model.name, s.model.encoder = ENCODERS[arg.encoder]
        s.model.pooling = "mean_max"
        s.train.batch_size = 40
        s.train.evaluate_every = 10**6
        s.eval.batch_size = 100
        s.eval.splits = ("test",)
    p = stages["pretrain"]
    p.objective.name = "autoencoder"
    if arg.denoise:
        p.augment.waveform = (dict(name="noise"),)
        p.objective.options = dict(noise=0.3, target="clean")
    p.optimizer.learning_rate = 1e-3
    p.optimizer.warmup_fraction = 0.1
    p.train.batch_size = 64
    p.train.steps = 400
    p.eval.evaluators = (dict(name="objective"), dict(name="knn"), dict(name="linear"))
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    for f in (stages["scratch"], stages["finetune"]):
        f.data.labels_per_class = arg.shots
        f.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
        f.optimizer.learning_rate = 3e-3
        f.optimizer.warmup_fraction = 0.1
        f.train.steps = 160
    stages["finetune"].init_from = "pretrain"
    return c
