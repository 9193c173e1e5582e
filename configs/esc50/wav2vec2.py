"""A small wav2vec 2.0 on ESC-10: pretraining without labels, then few labels.

Both stages train on the same four folds; the fifth is the test.

    python -m sacjax.main --config configs/esc50/wav2vec2.py:fold=1,shots=4 \\
        --workdir runs/esc10/wav2vec2
    # The table of docs/results.md: folds × draws, from scratch beside it.
    python launch/benchmarks/few_labels.py --only esc10 --runs runs

The recipe is that of configs/fsdd/wav2vec2.py with frames of 40 ms, as these sounds change more
slowly than speech. Arguments: `fold=k` the test fold (of both stages), `shots` labels a class (0:
all), `draw` which ones, `scratch` leaves the pretraining out, `pretrain_only` the fine-tuning.
"""

from pathlib import Path

from sacjax import config as config_lib

RECIPE = Path(__file__).parents[1] / "fsdd" / "wav2vec2.py"
FRAMES = dict(
    conv_channels=(64,) * 8,
    conv_kernels=(10, 3, 3, 3, 3, 2, 2, 2),
    conv_strides=(5, 2, 2, 2, 2, 2, 2, 2),
)


def get_config(arg=""):
    config_lib.parse_arg(arg, fold=1, shots=4, draw=0, scratch=False, pretrain_only=False)
    c = config_lib.load(f"{RECIPE}:shots=4,{arg}")
    for s in (c.pretrain, c.finetune):
        s.data.name = "esc50/esc10"
        s.data.path = config_lib.local_data("esc10")
        s.data.sample_rate = 16000
        s.data.seconds = 2.5
        s.model.encoder.update(FRAMES)
        s.train.batch_size = 32
        s.eval.batch_size = 32
    p = c.pretrain
    p.data.holdout = (0.9, 0.05, 0.05)  # not used, as a fold is given
    p.objective.options.update(
        negatives=50,
        mask_probability=0.15,
        mask_span=3,
        temperature_start=1.0,
        feature_penalty=0.0,
    )
    # The convolutions wait until the Transformer can predict: trained from the first step they make
    # the frames of sounds that are hard to predict all alike (it stayed at chance), and then there
    # is nothing left to learn.
    p.optimizer.freeze = (("encoder/conv", 150),)
    p.train.steps = 400
    p.train.log_every = 20
    p.train.evaluate_every = 200
    f = c.finetune
    f.augment.waveform = (
        dict(name="speed", low_factor=0.8, high_factor=1.25),
        dict(name="shift"),
        dict(name="noise", low_snr_db=10.0, high_snr_db=40.0, probability=0.5),
    )
    del f.model.encoder["mask_span"]
    f.train.steps = 200
    if f.init_from:
        f.optimizer.freeze = (("encoder/conv", 0),)
    return c
