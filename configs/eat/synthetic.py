"""EAT on the quickstart's synthesized sound, patches of a log-mel, then few labels.

    python -m sacjax.main --config configs/eat/synthetic.py --workdir runs/eat

Argument: `shots` labels a class. `pretrain` hears the training clips without labels and is probed
by nearest neighbours and a linear classifier; `scratch` trains the network on few labels alone;
`finetune` starts from the pretrained encoder.
"""

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, shots=10)
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
        s.model.name = "spectrogram_transformer"
        s.model.encoder = dict(size="mini", patch_frames=4, patch_bands=12)
        s.model.pooling = "mean_max"
        s.train.batch_size = 40
        s.train.evaluate_every = 10**6
        s.eval.batch_size = 100
        s.eval.splits = ("test",)
    p = stages["pretrain"]
    p.augment.waveform = (dict(name="shift", max_share=0.5), dict(name="gain"))
    p.objective.name = "eat"
    p.objective.options = dict(
        clones=4,
        mask_ratio=0.75,
        block=3,
        decoder_depth=2,
        teacher_decay=0.99,
        teacher_decay_end=0.9998,
    )
    p.optimizer.learning_rate = 5e-4
    p.optimizer.warmup_fraction = 0.1
    p.optimizer.beta2 = 0.95
    p.train.batch_size = 64
    p.train.steps = 1000
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
