"""A small wav2vec 2.0 on ESC-10: pretraining without labels, then few labels.

Both stages train on the same four folds; the fifth is the test.

    python -m sacjax.main --config configs/esc50/wav2vec2.py:fold=1,shots=4 \\
        --workdir runs/esc10/wav2vec2
    # The table of docs/results.md: folds × draws, from scratch beside it.
    python launch/benchmarks/few_labels.py --only esc10 --runs runs

The recipe is that of configs/wav2vec2/folder.py with frames of 40 ms, as these sounds change more
slowly than speech. Arguments: `fold=k` the test fold (of both stages), `shots` labels a class (0:
all), `draw` which ones, `scratch` leaves the pretraining out, `pretrain_only` the fine-tuning.
"""

from pathlib import Path

from sacjax import config as config_lib

RECIPE = Path(__file__).parents[1] / "wav2vec2" / "folder.py"
FRAMES = dict(
    conv_channels=(64,) * 8,
    conv_kernels=(10, 3, 3, 3, 3, 2, 2, 2),
    conv_strides=(5, 2, 2, 2, 2, 2, 2, 2),
)


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, fold=1, shots=4, draw=0, scratch=False, pretrain_only=False)
    c = config_lib.load(f"{RECIPE}:scratch={arg.scratch},pretrain_only={arg.pretrain_only}")
    p = c.pretrain
    f = c.finetune
    for s in (p, f):
        s.data.source = "tfds"
        s.data.name = "esc50/esc10"
        s.data.path = config_lib.local_data("esc10")
        s.data.fold = arg.fold
        s.data.validation_fraction = 0.0
        s.data.cache = True
        s.train.evaluate_every = 10**6
        s.model.encoder.update(FRAMES)
    p.objective.options.update(
        mask_probability=0.15, mask_span=3, temperature_start=1.0, feature_penalty=0.0
    )
    p.optimizer.freeze = (("encoder/conv", 150),)
    p.train.steps = 400
    p.train.log_every = 20
    p.train.evaluate_every = 200
    p.eval.splits = ("test",)
    c.checkpoint.every = 500
    f.data.labels_per_class = arg.shots
    f.data.split_seed = arg.draw
    f.train.steps = 200
    f.eval.checkpoint = "last"
    if not arg.scratch:
        f.optimizer.freeze = (("encoder/conv", 0),)
    return c
