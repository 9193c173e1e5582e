"""The quickstart: 20 classes of synthesized sound, no download; a small wav2vec 2.0 learns from 2000 clips without labels, then from few.

    python -m sacjax.main --config configs/quickstart.py --workdir runs/quickstart

Three stages, three minutes on two CPU cores: `pretrain` hears the training clips without labels; `scratch` trains the network on ten
labels a class alone; `finetune` does the same from the pretrained encoder. `shots` is the number of labels a class.
"""

from sacjax import config as config_lib

ENCODER = dict(
    size="mini", conv_channels=(64,) * 3, conv_kernels=(20, 8, 8), conv_strides=(10, 4, 4), width=96, depth=3, mlp_width=384,
    positional_kernel=16, positional_groups=8, layer_drop=0.0,
)  # fmt: skip


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, shots=10)
    stages = dict(
        pretrain=config_lib.stage(), scratch=config_lib.stage(), finetune=config_lib.stage()
    )
    c = config_lib.default(**stages)
    for s in stages.values():
        s.data.source, s.data.examples, s.data.holdout, s.data.cache = (
            "synthetic",
            2800,
            (0.7, 0.1, 0.2),
            True,
        )
        s.data.sample_rate = 8000
        s.model.name, s.model.encoder = "wav2vec2", ENCODER
        s.train.batch_size, s.eval.batch_size, s.train.evaluate_every = 40, 100, 10**6
        s.eval.splits = ("test",)
    p = stages["pretrain"]
    p.augment.waveform = (dict(name="gain"),)
    p.objective.name = "contrastive"
    p.objective.options = dict(
        codebook_entries=64, codebook_dim=64, projection_dim=64, negatives=30, mask_span=5, mask_probability=0.12, temperature_decay=0.997,
        feature_penalty=1.0, probe_examples=1000,
    )  # fmt: skip
    p.optimizer.learning_rate, p.optimizer.warmup_fraction, p.optimizer.beta2 = 2e-3, 0.1, 0.98
    p.train.batch_size, p.train.steps = 48, 500
    p.eval.best, p.eval.best_mode = "validation/loss", "min"
    for f in (stages["scratch"], stages["finetune"]):
        f.data.labels_per_class = arg.shots
        f.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
        f.model.encoder = ENCODER | dict(mask_probability=0.2, mask_span=4)
        f.model.layers, f.model.projection = "weighted", 96
        f.optimizer.learning_rate, f.optimizer.warmup_fraction = 3e-3, 0.1
        f.train.steps = 160
    f.init_from = "pretrain"
    f.optimizer.freeze = (
        ("encoder/conv", 0),
        ("encoder/(layers|projection|positional|norm|mask)", 30),
    )
    return c
