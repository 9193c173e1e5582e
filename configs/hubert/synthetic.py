"""HuBERT on the quickstart's synthesized sound, in two iterations, without labels.

    python -m sacjax.main --config configs/hubert/synthetic.py --workdir runs/hubert

Argument: `shots` labels a class. `first` tells clusters of MFCC at masked tokens, `pretrain`, from
fresh parameters, clusters of a layer of `first`, and is probed by nearest neighbours and a linear
classifier; both hear the training clips without labels. `scratch` trains the network on few labels
alone; `finetune` starts from the pretrained encoder.
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
        first=config_lib.stage(),
        pretrain=config_lib.stage(),
        scratch=config_lib.stage(),
        finetune=config_lib.stage(),
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
    for p in (stages["first"], stages["pretrain"]):
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
        p.optimizer.warmup_fraction = 0.1
        p.train.batch_size = 64
        p.train.steps = 200
        p.eval.evaluators = (dict(name="objective"), dict(name="knn"), dict(name="linear"))
        p.eval.best = "validation/loss"
        p.eval.best_mode = "min"
    stages["pretrain"].objective.options.targets = "first"
    stages["pretrain"].objective.options.layer = 2
    for f in (stages["scratch"], stages["finetune"]):
        f.data.labels_per_class = arg.shots
        f.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
        f.optimizer.learning_rate = 1e-3
        f.optimizer.warmup_fraction = 0.1
        f.train.steps = 160
    stages["finetune"].init_from = "pretrain"
    return c
