"""wav2vec 2.0, small, on ESC-10: pretrained without labels on four folds, fine-tuned on few labels of them, tested on the fifth.

    python -m sacjax.main --config configs/esc50/wav2vec2.py:fold=1,shots=4 --workdir runs/esc10/wav2vec2
    python launch/benchmarks/few_labels.py --only esc10 --runs runs    # the README's table: folds × draws, from scratch beside it

Arguments: `fold=k` the test fold (of both stages), `shots` labels a class (0: all), `draw` which ones, `scratch` leaves the pretraining
out, `pretrain_only` the fine-tuning.
"""

from sacjax import config as config_lib

ENCODER = dict(  # as configs/fsdd/wav2vec2.py
    size="mini", conv_channels=(64,) * 7, conv_norm="group", conv_bias=False,
    positional_kernel=32, positional_groups=8, layer_drop=0.0,
)  # fmt: skip


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, fold=1, shots=4, draw=0, scratch=False, pretrain_only=False)
    c = config_lib.default(pretrain=config_lib.stage(), finetune=config_lib.stage())
    for s in (c.pretrain, c.finetune):
        s.data.source, s.data.name = "tfds", "esc50/esc10"
        s.data.path = config_lib.local_data("esc10")
        s.data.fold, s.data.validation_fraction = arg.fold, 0.0
        s.data.sample_rate, s.data.seconds, s.data.cache = 16000, 2.5, True
        s.model.name, s.model.encoder = "wav2vec2", ENCODER
        s.train.batch_size, s.eval.batch_size = 32, 32
        s.train.evaluate_every = 10**6
    p = c.pretrain
    p.augment.waveform = (dict(name="gain"),)
    p.objective.name = "contrastive"
    p.objective.options = dict(
        codebook_entries=64, codebook_dim=128, projection_dim=128, negatives=50, temperature_decay=0.999,
        feature_penalty=1.0, probe_examples=1000,
    )  # fmt: skip
    p.optimizer.learning_rate, p.optimizer.warmup_fraction, p.optimizer.beta2 = 1e-3, 0.1, 0.98
    p.train.steps, p.train.log_every, p.train.evaluate_every = 400, 20, 200  # as many passes over the sound as FSDD's
    p.eval.best, p.eval.best_mode, p.eval.splits = "validation/loss", "min", ("test",)
    c.checkpoint.every = 500

    f = c.finetune
    f.data.labels_per_class, f.data.split_seed = arg.shots, arg.draw
    f.augment.waveform = (  # as configs/fsdd/wav2vec2.py
        dict(name="speed", low_factor=0.8, high_factor=1.25),
        dict(name="shift"),
        dict(name="noise", low_snr_db=10.0, high_snr_db=40.0, probability=0.5),
    )
    f.model.encoder = ENCODER | dict(mask_probability=0.3)
    f.model.layers, f.model.projection = "weighted", 128
    f.optimizer.learning_rate, f.optimizer.warmup_fraction = 1e-3, 0.1
    f.train.steps = 300
    if arg.scratch:
        c.stages = ("finetune",)
    else:
        f.init_from = "pretrain"
    if arg.pretrain_only:
        c.stages = ("pretrain",)
    return c
