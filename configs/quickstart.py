"""The quickstart: 20 classes of synthesized sound, pretrained without labels, then few.

No download: a small wav2vec 2.0 learns from 1,960 clips without labels, then from few.

    python -m sacjax.main --config configs/quickstart.py --workdir runs/quickstart

Three stages, three to five minutes on two CPU cores: `pretrain` hears the training clips without
labels; `scratch` trains the network on ten labels a class alone; `finetune` does the same from the
pretrained encoder. `shots` is the number of labels a class.
"""

from sacjax import config as config_lib

ENCODER = dict(
    size="mini",
    conv_channels=(64,) * 3,
    conv_kernels=(20, 8, 8),
    conv_strides=(10, 4, 4),
    width=96,
    depth=3,
    mlp_width=384,
    positional_kernel=16,
    positional_groups=8,
    layer_drop=0.0,
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
        s.model.name = "wav2vec2"
        s.model.encoder = ENCODER
        s.train.batch_size = 40
        s.eval.batch_size = 100
        s.train.evaluate_every = 10**6
        s.eval.splits = ("test",)
    p = stages["pretrain"]
    p.augment.waveform = (dict(name="gain"),)
    p.objective.name = "wav2vec2"
    p.objective.options = dict(
        codebook_entries=64,
        codebook_dim=64,
        projection_dim=64,
        negatives=30,
        mask_span=5,
        mask_probability=0.12,
        temperature_decay=0.997,
        feature_penalty=1.0,
    )
    p.eval.evaluators = (dict(name="objective"), dict(name="knn", examples=1000))
    p.optimizer.learning_rate = 2e-3
    p.optimizer.warmup_fraction = 0.1
    p.optimizer.beta2 = 0.98
    p.train.batch_size = 48
    p.train.steps = 500
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    for f in (stages["scratch"], stages["finetune"]):
        f.data.labels_per_class = arg.shots
        f.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
        f.model.encoder = ENCODER | dict(mask_probability=0.2, mask_span=4)
        f.model.layers = "weighted"
        f.model.projection = 96
        f.optimizer.learning_rate = 3e-3
        f.optimizer.warmup_fraction = 0.1
        f.train.steps = 160
    f.init_from = "pretrain"
    f.optimizer.freeze = (
        ("encoder/conv", 0),
        ("encoder/(transformer|projection|positional|mask)", 30),
    )
    return c
