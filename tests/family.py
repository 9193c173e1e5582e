"""The family of objectives at the size of tests: one tiny stage each, on tones that differ.

A new objective adds an entry to `FAMILY`: `test_family.py` then holds what every objective must do.
"""

from typing import NamedTuple

from sacjax import config as config_lib


class Member(NamedTuple):
    """How an objective is tried."""

    encoder: str = "small_cnn"
    options: dict = {}
    stage: dict = {}
    """{group: values} that replace those of `stage_of`."""

    steps: int = 60
    """Updates after which neighbours must be better than those of the untrained encoder."""

    rate: float = 3e-3

    tolerance: float = 1e-4
    """By which losses of the first updates on 1 and 8 devices may differ, as a share."""


ENCODERS = {
    "small_cnn": dict(channels=(8, 8), hidden=16),
    "gru": dict(width=48, layers=2, dropout=0.0),
    "autoencoder": dict(frames=32, widths=(128, 32)),
    "frames": dict(width=24, depth=2, heads=2, mlp_width=48, patch_frames=2, patch_bands=None),
    "patches": dict(width=24, depth=2, heads=2, mlp_width=48, patch_frames=4, patch_bands=4),
}
NAMES = {"frames": "spectrogram_transformer", "patches": "spectrogram_transformer"}
VIEWS = dict(
    augment=dict(
        waveform=(
            dict(name="speed"),
            dict(name="gain"),
            dict(name="shift", max_share=0.1),
            dict(name="noise"),
        ),
        spectrogram=(dict(name="frequency_mask", width=3),),
    ),
    model=dict(pooling="mean_max"),
)
FAMILY: dict[str, Member] = {
    "apc": Member(encoder="gru", options=dict(ahead=3), steps=300),
    "autoencoder": Member(encoder="autoencoder", options=dict(noise=0.5), steps=240),
    "best_rq": Member(
        encoder="frames",
        options=dict(codebooks=4, codes=32, code_dim=8, mask_span=2),
        steps=150,
        rate=1e-2,
    ),
    "byol_a": Member(options=dict(hidden=32, projection_dim=16, teacher_decay=0.9)),
    "cola": Member(options=dict(projection_dim=16), stage=VIEWS, steps=120, rate=1e-2),
    "data2vec": Member(
        encoder="frames",
        options=dict(
            top_layers=2, mask_span=2, mask_probability=0.25, teacher_decay=0.9, teacher_ramp=0
        ),
    ),
    "eat": Member(
        encoder="patches",
        options=dict(
            clones=2,
            mask_ratio=0.6,
            block=2,
            decoder_depth=1,
            decoder_width=16,
            decoder_groups=4,
            teacher_decay=0.9,
            teacher_decay_end=0.95,
        ),
    ),
    "hubert": Member(
        encoder="frames",
        options=dict(
            clusters=16, kmeans_tokens=2000, kmeans_starts=2, code_dim=16, mask_probability=0.25
        ),
    ),
    "inversion": Member(
        encoder="frames",
        options=dict(width=16, hidden=32, depth=1, griffin_lim=0),
        stage=dict(train=dict(batch_size=16)),
        tolerance=3e-3,
    ),
    "masked_autoencoder": Member(
        encoder="patches", options=dict(decoder_width=16, decoder_depth=1, decoder_heads=2)
    ),
    "masked_prediction": Member(
        encoder="frames", options=dict(time_span=2, time_share=0.3), steps=120
    ),
    "simclr": Member(options=dict(hidden=32, projection_dim=16), stage=VIEWS, steps=120, rate=1e-2),
    "wav2vec2": Member(
        encoder="frames",
        options=dict(
            codebook_entries=8,
            codebook_dim=16,
            projection_dim=16,
            negatives=5,
            mask_span=2,
            mask_probability=0.2,
            temperature_decay=0.98,
        ),
        steps=100,
    ),
}


def stage_of(name, options=None):
    """Returns the tiny stage of an objective, a quarter of a second at 8 kHz a clip."""
    member, s = FAMILY[name], config_lib.stage()
    with s.unlocked():
        s.data.update(source="synthetic", examples=160, sample_rate=8000, seconds=0.25, cache=True)
        s.frontend.update(n_fft=256, hop_length=64, n_mels=16)
        s.model.name, s.objective.name = NAMES.get(member.encoder, member.encoder), name
        s.model.encoder = ENCODERS[member.encoder]
        s.objective.options = member.options | (options or {})
        s.augment.waveform = (dict(name="gain"),)
        s.optimizer.learning_rate = member.rate
        s.train.update(batch_size=32, steps=8, log_every=4, evaluate_every=100)
        s.eval.update(best="validation/loss", best_mode="min", batch_size=32)
        for group, values in member.stage.items():
            s[group].update(values)
    return s


def config_of(name, options=None):
    """Returns a config whose one stage is that of `stage_of`."""
    config = config_lib.default(pretrain=stage_of(name, options))
    config.tensorboard = False
    return config
