"""Your own recordings: pretrain an encoder on many without labels, fine-tune it on few with one.

    sacjax train --config configs/pretrain_folder.py --workdir runs/pretrained \\
        --config.pretrain.data.path=UNLABELLED --config.scratch.data.path=LABELLED \\
        --config.finetune.data.path=LABELLED

UNLABELLED is searched whole, whatever its sub-folders; LABELLED has one for each label. Where both
are the same folder, add --config.pretrain.data.holdout=0.6,0.2,0.2, the others' shares: no stage
may hear what a later one is tested on. `scratch` is the same network trained on the labels alone,
so that you see what pretraining brings. Arguments: `method` (an objective; see METHODS below),
`encoder` (see ENCODERS; default: the method's own), `size` of a Transformer (small, base, …: a GPU;
default: 0.7 million parameters, two cores), `rate` in Hz and `seconds` of a crop, `top_db` how far
below a clip's maximum is heard, `trim_db` where the silence at a clip's ends is cut, in decibels
below its loudest part (20 for single words; 0: nowhere), `pooling` of frames (grid for words),
`steps` of pretraining, `shots` labels a class (0: all), `stages` joined by `+`.

docs/pretraining.md says which method to take for which sound, from our own table.
"""

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

TRANSFORMER = dict(width=120, depth=4, heads=4, mlp_width=480)
# {encoder: (its name, its options, those of 0.7 million parameters, which `size` replaces)}
ENCODERS = {
    "resnet": ("spectrogram_resnet", dict(depth=18), dict(width=16)),
    "patches": (
        "spectrogram_transformer",
        dict(class_tokens=1, patch_frames=8, patch_bands=8),
        TRANSFORMER,
    ),
    "frames": (
        "spectrogram_transformer",
        dict(class_tokens=0, patch_frames=2, patch_bands=None),
        TRANSFORMER,
    ),
    "gru": ("gru", dict(), dict(width=208, stack=2)),
    "causal": ("causal_transformer", dict(stack=2), TRANSFORMER),
    "wave": (
        "wav2vec2",
        # Group norm over time, as base: layer norm of each frame makes a room's silence as loud as
        # speech, and a speaker in another room is lost.
        dict(conv_norm="group", conv_bias=False, layer_drop=0.0),
        dict(
            size="mini",
            conv_channels=(64,) * 5,
            conv_kernels=(10, 3, 3, 3, 2),
            conv_strides=(5, 2, 2, 2, 2),
            positional_kernel=32,
            positional_groups=8,
            width=112,
            mlp_width=448,
        ),
    ),
}

# Two views of a clip differ in what must not matter: speed (with it pitch and formants, a speaker's
# size), place in time, level, noise, and what a mask hides.
VIEWS = dict(
    waveform=(
        dict(name="speed", low_factor=0.75, high_factor=1.33),
        dict(name="shift", max_share=0.1, circular=False),
        dict(name="gain"),
        dict(name="noise", low_snr_db=10.0, high_snr_db=40.0, probability=0.8),
    ),
    spectrogram=(
        dict(name="frequency_mask", count=2, width=6),
        dict(name="time_mask", count=2, width=10),
    ),
)
ONE_VIEW = dict(waveform=(dict(name="gain"),), spectrogram=())
METHODS = {
    "simclr": dict(
        encoder="resnet", options=dict(temperature=0.1), augment=VIEWS, batch=128, rate=1e-3
    ),
    "cola": dict(encoder="resnet", options=dict(), augment=VIEWS, batch=128, rate=1e-3),
    "byol_a": dict(
        encoder="resnet",
        options=dict(hidden=1024, projection_dim=128),
        augment=dict(
            waveform=VIEWS["waveform"],
            spectrogram=(
                dict(name="log_mixup", max_share=0.2),
                dict(name="resize_crop"),
                dict(name="linear_fade"),
            ),
        ),
        batch=128,
        rate=1e-3,
    ),
    "apc": dict(encoder="gru", options=dict(), augment=ONE_VIEW, batch=32, rate=1e-3),
    "autoencoder": dict(
        encoder="resnet", options=dict(noise=0.5), augment=ONE_VIEW, batch=64, rate=1e-3
    ),
    "best_rq": dict(
        encoder="frames",
        options=dict(codebooks=4, codes=256, mask_probability=0.06, mask_exact=False, mask_span=8),
        augment=ONE_VIEW,
        batch=64,
        rate=1e-3,
    ),
    "data2vec": dict(
        encoder="frames",
        options=dict(
            top_layers=3,
            mask_probability=0.07,
            mask_span=8,
            clones=2,
            teacher_decay=0.99,
            teacher_decay_end=0.999,
            teacher_ramp=0.5,
        ),
        augment=ONE_VIEW,
        batch=32,
        rate=5e-4,
    ),
    "eat": dict(
        encoder="patches",
        options=dict(
            clones=4,
            block=3,
            decoder_depth=2,
            decoder_groups=8,
            teacher_decay=0.99,
            teacher_decay_end=0.999,
            teacher_ramp=0.5,
        ),
        augment=ONE_VIEW,
        batch=32,
        rate=5e-4,
    ),
    "hubert": dict(
        encoder="frames",
        options=dict(mask_probability=0.06, mask_span=8, kmeans_starts=3),
        augment=ONE_VIEW,
        batch=64,
        rate=1e-3,
    ),
    "inversion": dict(
        encoder="resnet",
        options=dict(width=96, hidden=192, depth=3),
        augment=dict(waveform=(), spectrogram=()),  # a level that is not heard cannot be told
        batch=32,
        rate=1e-3,
    ),
    "masked_autoencoder": dict(
        encoder="patches",
        options=dict(decoder_width=60, decoder_depth=2),
        augment=ONE_VIEW,
        batch=64,
        rate=1e-3,
    ),
    "masked_prediction": dict(
        encoder="frames", options=dict(time_share=0.3), augment=ONE_VIEW, batch=64, rate=1e-3
    ),
    "wav2vec2": dict(
        encoder="wave",
        options=dict(
            codebook_entries=64,
            codebook_dim=128,
            projection_dim=128,
            negatives=30,
            temperature_decay=0.999,
            feature_penalty=1.0,
        ),
        augment=ONE_VIEW,
        batch=64,
        rate=1e-3,
    ),
}


def get_config(arg=""):
    arg = config_lib.parse_arg(
        arg,
        method="simclr",
        encoder="",
        size="",
        rate=16000,
        seconds=2.0,
        top_db=80.0,
        trim_db=0.0,
        pooling="mean_max",
        steps=2000,
        shots=0,
        stages="pretrain+scratch+finetune",
    )
    if arg.method not in METHODS:
        raise UserError(f"method is '{arg.method}'{nearest(arg.method, METHODS)}")
    method = METHODS[arg.method]
    encoder = arg.encoder or method["encoder"]
    if encoder not in ENCODERS:
        raise UserError(f"encoder is '{encoder}'{nearest(encoder, ENCODERS)}")
    name, options, two_cores = ENCODERS[encoder]
    stages = dict(
        pretrain=config_lib.stage(), scratch=config_lib.stage(), finetune=config_lib.stage()
    )
    c = config_lib.default(**stages)
    for s in stages.values():
        s.data.source = "folder"
        s.data.sample_rate = arg.rate
        s.data.seconds = arg.seconds
        s.frontend.n_fft = 256 if arg.rate <= 11025 else 512 if arg.rate <= 22050 else 1024
        s.frontend.hop_length = arg.rate // 100
        s.frontend.n_mels = 40 if arg.rate <= 11025 else 64
        s.frontend.top_db = arg.top_db
        s.frontend.trim_db = arg.trim_db
        s.model.name = name
        s.model.encoder = options | (dict(size=arg.size) if arg.size else two_cores)
        s.model.pooling = arg.pooling
        s.eval.batch_size = 64
    p = stages["pretrain"]
    p.data.holdout = (0.9, 0.05, 0.05)
    p.augment.waveform = method["augment"]["waveform"]
    if name != "wav2vec2":
        p.augment.spectrogram = method["augment"]["spectrogram"]
    p.objective.name = arg.method
    p.objective.options = method["options"]
    p.optimizer.learning_rate = method["rate"]
    p.optimizer.warmup_fraction = 0.1
    p.train.batch_size = method["batch"]
    p.train.steps = arg.steps
    p.train.evaluate_every = max(arg.steps // 4, 1)
    p.eval.evaluators = (dict(name="objective"), dict(name="knn", examples=1000))
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    for f in (stages["scratch"], stages["finetune"]):
        f.data.labels_per_class = arg.shots
        f.augment.waveform = (
            dict(name="speed", low_factor=0.8, high_factor=1.25),
            dict(name="shift", max_share=0.1, circular=False),
            dict(name="noise", low_snr_db=10.0, high_snr_db=40.0, probability=0.5),
        )
        if name != "wav2vec2":
            f.augment.spectrogram = VIEWS["spectrogram"]
        f.optimizer.learning_rate = 2e-3 if encoder == "resnet" else 1e-3
        f.optimizer.weight_decay = 0.05
        f.optimizer.warmup_fraction = 0.1
        f.train.batch_size = 32
        f.train.steps = 300
        f.train.evaluate_every = 100
        f.eval.checkpoint = "best"
    tuned = stages["finetune"]
    tuned.init_from = "pretrain"
    # The head first and fast, then all, the encoder slowly (Kumar et al. 2022): else it forgets,
    # and augmented clips spoil what was learned of clean ones (docs/pretraining.md).
    tuned.optimizer.freeze = (("^encoder/", tuned.train.steps // 2),)
    tuned.optimizer.multipliers = (("^encoder/", 0.1), ("^head", 10.0))
    tuned.augment.waveform = tuned.augment.spectrogram = ()
    c.stages = tuple(arg.stages.split("+"))
    if "pretrain" not in c.stages:
        tuned.init_from = ""
    return c
