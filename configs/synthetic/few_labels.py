"""20 classes of synthesized sound, no download: pretraining, then few labels. Base of the family's.

    sacjax train --config configs/synthetic/few_labels.py --workdir runs/few_labels

configs/NAME/synthetic.py is this with the objective NAME, for minutes on two CPU cores. Of 2,800
clips of a second at 8 kHz, `pretrain` hears those of training without their labels, and is probed
by nearest neighbours and a linear classifier; `scratch` trains the network on few labels alone;
`finetune` starts from the pretrained encoder. Here, where no objective is named, `pretrain` learns
from all labels: the most that pretraining could bring. Arguments: `encoder` (see ENCODERS), `shots`
labels a class.
"""

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

ENCODERS = {
    "audionet": dict(width=0.25),
    "autoencoder": dict(kind="conv", channels=(16, 32, 64), bottleneck=128),
    "causal_transformer": dict(size="mini", depth=3),
    "convnext_tiny": dict(width=8, layer_scale=1.0),
    "efficientnet_b0": dict(width=8),
    "gru": dict(width=128, layers=3),
    "hts_at": dict(  # a clip's 63 frames are two parts of a picture
        width=16, depths=(2, 2), heads=(2, 4), window=4, picture=96, max_frames=63
    ),
    "inception_v3": dict(width=4),
    "small_cnn": dict(),
    "spectrogram_resnet": dict(depth=18, width=16, stem="small", stem_stride=2),
    "spectrogram_transformer": dict(size="mini", patch_frames=4, patch_bands=12),
    "vgg11": dict(width=8),
    "wav2vec2": dict(  # a token every 160 samples, 20 ms
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
    ),
    "whisper": dict(width=96, depth=3, heads=4, mlp_width=384, max_frames=64, padding="mask"),
}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="spectrogram_resnet", shots=10)
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
        if arg.encoder not in ("audionet", "wav2vec2"):  # they hear the waveform
            s.frontend.n_fft = 256
            s.frontend.hop_length = 128
            s.frontend.n_mels = 48
        s.model.name = arg.encoder
        s.model.encoder = ENCODERS[arg.encoder]
        s.model.pooling = "mean_max"
        s.train.batch_size = 40
        s.train.evaluate_every = 10**6
        s.eval.batch_size = 100
        s.eval.splits = ("test",)
    p = stages["pretrain"]
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
