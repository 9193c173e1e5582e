"""wav2vec 2.0, small, on the Free Spoken Digit Dataset: pretrained without labels, fine-tuned on few, tested on a speaker never heard.

    python -m sacjax.main --config configs/fsdd/wav2vec2.py:fold=1,shots=10 --workdir runs/fsdd/wav2vec2
    python launch/benchmarks/few_labels.py --only fsdd --runs runs     # the README's table: folds × shots × draws, from scratch beside it

Arguments: `fold=k` the speaker left out (of both stages), `shots` labels per digit (0: all), `draw` which ones, `scratch` leaves the
pretraining out, `pretrain_only` the fine-tuning. Frames are 10 ms: digits last half a second, and a masked span is 100 ms.
A small batch, and so no collapse, on one device: a Gumbel temperature that falls within the run, and a small codebook.
"""

from sacjax import config as config_lib

# Group norm over time, as base: layer norm of each frame makes a room's silence as loud as speech, and a speaker in another room is lost.
ENCODER = dict(
    size="mini", conv_channels=(64,) * 5, conv_kernels=(10, 3, 3, 3, 2), conv_strides=(5, 2, 2, 2, 2),
    conv_norm="group", conv_bias=False, positional_kernel=32, positional_groups=8, layer_drop=0.0,
)  # fmt: skip


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, fold=1, shots=10, draw=0, scratch=False, pretrain_only=False)
    c = config_lib.default(pretrain=config_lib.stage(), finetune=config_lib.stage())
    for s in (c.pretrain, c.finetune):
        s.data.source, s.data.name = "tfds", "fsdd/loso"
        s.data.path = config_lib.local_data("fsdd")
        s.data.fold, s.data.validation_fraction = arg.fold, 0.0
        s.data.sample_rate, s.data.seconds, s.data.cache = (
            8000,
            0.64,
            True,
        )  # most digits are shorter than that
        s.model.name, s.model.encoder = "wav2vec2", ENCODER
        s.train.batch_size, s.eval.batch_size = 64, 100
        s.train.evaluate_every = 10**6
    p = c.pretrain
    p.augment.waveform = (dict(name="gain"),)
    p.objective.name = "contrastive"
    p.objective.options = dict(
        codebook_entries=64, codebook_dim=128, projection_dim=128, negatives=30, temperature_decay=0.999,
        feature_penalty=1.0, probe_examples=1000,
    )  # fmt: skip
    p.optimizer.learning_rate, p.optimizer.warmup_fraction, p.optimizer.beta2 = 1e-3, 0.1, 0.98
    p.train.steps, p.train.log_every, p.train.evaluate_every = 500, 25, 250
    p.eval.best, p.eval.best_mode, p.eval.splits = "validation/loss", "min", ("test",)
    c.checkpoint.every = 500

    f = c.finetune
    f.data.labels_per_class, f.data.split_seed = arg.shots, arg.draw
    # A digit at another speed, its pitch and formants with it, is nearly another speaker's. The whole network learns from the
    # start, as from scratch: frozen convolutions keep what they know of the five speakers, and cost 20 points.
    f.augment.waveform = (
        dict(name="speed", low_factor=0.8, high_factor=1.25),
        dict(name="shift", max_share=0.1, circular=False),
        dict(name="noise", low_snr_db=10.0, high_snr_db=40.0, probability=0.5),
    )
    f.model.encoder = ENCODER | dict(mask_probability=0.3, mask_span=5)
    f.model.layers, f.model.projection = "weighted", 128
    f.optimizer.learning_rate, f.optimizer.warmup_fraction = 1e-3, 0.1
    f.train.batch_size, f.train.steps = 32, 400
    if arg.scratch:
        c.stages = ("finetune",)
    else:
        f.init_from = "pretrain"
    if arg.pretrain_only:
        c.stages = ("pretrain",)
    return c
