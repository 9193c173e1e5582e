"""BEST-RQ on the quickstart's synthesized sound: a wave encoder, pretrained without labels.

    python -m sacjax.main --config configs/best_rq/synthetic.py --workdir runs/best_rq

Argument: `shots` labels a class. `pretrain` hears the training clips without labels, tells the
random codes of masked log-mels and is probed by nearest neighbours and a linear classifier;
`scratch` trains the network on few labels alone; `finetune` starts from the pretrained encoder.
"""

from sacjax import config as config_lib

ENCODER = dict(  # a token every 160 samples, 20 ms
    size="mini",
    conv_channels=(64,) * 3,
    conv_kernels=(20, 8, 8),
    conv_strides=(10, 4, 4),
    width=96,
    depth=3,
    mlp_width=384,
    positional_kernel=16,
    positional_groups=8,
)


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
        s.frontend.n_mels = 48
        s.frontend.normalize = "clip"
        s.model.name = "wav2vec2"
        s.model.encoder = ENCODER
        s.model.pooling = "mean_max"
        s.train.batch_size = 40
        s.train.evaluate_every = 10**6
        s.eval.batch_size = 100
        s.eval.splits = ("test",)
    p = stages["pretrain"]
    p.augment.waveform = (dict(name="gain"), dict(name="noise"))
    p.objective.name = "best_rq"
    p.objective.options = dict(codes=256, codebooks=4, stack=2, mask_probability=0.5, mask_span=4)
    p.optimizer.learning_rate = 2e-3
    p.optimizer.warmup_fraction = 0.1
    p.train.batch_size = 64
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
