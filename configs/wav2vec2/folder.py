"""wav2vec 2.0 on your own recordings, for one device: pretraining, then few labels.

It is pretrained on many recordings without labels and fine-tuned on the few that have one.

    python -m sacjax.main --config configs/wav2vec2/folder.py --workdir runs/mine \\
        --config.pretrain.data.path=UNLABELLED --config.finetune.data.path=LABELLED

UNLABELLED is searched whole, whatever its sub-folders; LABELLED has one for each label; both may be
the same folder. Arguments:
`rate` in Hz and `seconds` of a crop, for both stages; `size` of the encoder (mini: two cores;
small, base: a GPU); `pretrain_only` and `scratch` leave one stage out.
"""

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(
        arg, rate=16000, seconds=2.5, size="mini", pretrain_only=False, scratch=False
    )
    encoder = dict(size=arg.size, conv_norm="group", conv_bias=False, layer_drop=0.0)
    if arg.size == "mini":
        encoder |= dict(conv_channels=(64,) * 7, positional_kernel=32, positional_groups=8)
    c = config_lib.default(pretrain=config_lib.stage(), finetune=config_lib.stage())
    for s in (c.pretrain, c.finetune):
        s.data.source = "folder"
        s.data.sample_rate = arg.rate
        s.data.seconds = arg.seconds
        s.model.name = "wav2vec2"
        s.model.encoder = encoder
        s.train.batch_size = 32
        s.eval.batch_size = 32
    p = c.pretrain
    p.data.holdout = (0.9, 0.05, 0.05)
    p.augment.waveform = (dict(name="gain"),)
    p.objective.name = "wav2vec2"
    # A temperature that falls within the run, and a small codebook: no collapse with small batches.
    p.objective.options = dict(
        codebook_entries=64,
        codebook_dim=128,
        projection_dim=128,
        negatives=50,
        temperature_decay=0.999,
        feature_penalty=1.0,
    )
    p.eval.evaluators = (dict(name="objective"), dict(name="knn", examples=1000))
    p.optimizer.learning_rate = 1e-3
    p.optimizer.warmup_fraction = 0.1
    p.optimizer.beta2 = 0.98
    # The convolutions wait until the Transformer can predict: trained from the first step they make
    # the frames of sounds that are hard to predict all alike (ESC-10 stayed at chance), and then
    # there is nothing left to learn.
    p.optimizer.freeze = (("encoder/conv", 200),)
    p.train.steps = 2000
    p.train.evaluate_every = 500
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    f = c.finetune
    f.augment.waveform = (
        dict(name="speed", low_factor=0.8, high_factor=1.25),
        dict(name="shift"),
        dict(name="noise", low_snr_db=10.0, high_snr_db=40.0, probability=0.5),
    )
    f.model.encoder = encoder | dict(mask_probability=0.3)
    f.model.layers = "weighted"
    f.model.projection = 128
    f.optimizer.learning_rate = 1e-3
    f.optimizer.warmup_fraction = 0.1
    f.train.steps = 500
    f.train.evaluate_every = 100
    f.eval.checkpoint = "best"
    if not arg.scratch:
        f.init_from = "pretrain"
    if arg.scratch:
        c.stages = ("finetune",)
    elif arg.pretrain_only:
        c.stages = ("pretrain",)
    return c
