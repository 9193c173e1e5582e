"""A small wav2vec 2.0 on the Free Spoken Digit Dataset: pretraining, then few labels.

The test is a speaker whom neither stage has heard.

    python -m sacjax.main --config configs/fsdd/wav2vec2.py:fold=1,shots=10 \\
        --workdir runs/fsdd/wav2vec2
    # The table of docs/results.md: folds × shots × draws, from scratch beside it.
    python launch/benchmarks/few_labels.py --only fsdd --runs runs

Arguments: `fold=k` the speaker left out (of both stages), `shots` labels per digit (0: all), `draw`
which ones, `scratch` leaves the pretraining out, `pretrain_only` the fine-tuning. The encoder is
the wave encoder of configs/pretrain_folder.py, a little wider. Its frames are 10 ms: digits last
half a second, and a masked span is 100 ms. The batch is small, for one device; a Gumbel temperature
that falls within the run and a small codebook keep it from collapse.
"""

from pathlib import Path

from sacjax import config as config_lib

RECIPE = Path(__file__).parents[1] / "pretrain_folder.py"


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, fold=1, shots=10, draw=0, scratch=False, pretrain_only=False)
    encoder = config_lib.load(f"{RECIPE}:encoder=wave").pretrain.model.encoder.to_dict()
    for key in ("width", "mlp_width"):  # mini's own, 128 and 512
        del encoder[key]
    c = config_lib.default(pretrain=config_lib.stage(), finetune=config_lib.stage())
    for s in (c.pretrain, c.finetune):
        s.data.source = "tfds"
        s.data.name = "fsdd/loso"
        s.data.path = config_lib.local_data("fsdd")
        s.data.fold = arg.fold
        s.data.validation_fraction = 0.0
        s.data.sample_rate = 8000
        s.data.seconds = 0.64
        s.data.cache = True  # most digits are shorter than that
        s.model.name = "wav2vec2"
        s.model.encoder = encoder
        s.train.batch_size = 64
        s.eval.batch_size = 100
        s.train.evaluate_every = 10**6
    p = c.pretrain
    p.augment.waveform = (dict(name="gain"),)
    p.objective.name = "wav2vec2"
    p.objective.options = dict(
        codebook_entries=64,
        codebook_dim=128,
        projection_dim=128,
        negatives=30,
        temperature_decay=0.999,
        feature_penalty=1.0,
    )
    p.eval.evaluators = (dict(name="objective"), dict(name="knn", examples=1000))
    p.optimizer.learning_rate = 1e-3
    p.optimizer.warmup_fraction = 0.1
    p.optimizer.beta2 = 0.98
    p.train.steps = 500
    p.train.log_every = 25
    p.train.evaluate_every = 250
    p.eval.best = "validation/loss"
    p.eval.best_mode = "min"
    p.eval.splits = ("test",)
    c.checkpoint.every = 500

    f = c.finetune
    f.data.labels_per_class = arg.shots
    f.data.split_seed = arg.draw
    # A digit at another speed, its pitch and formants with it, is nearly another speaker's. The
    # whole network learns from the start, as from scratch: frozen convolutions keep what they know
    # of the five speakers, and cost 20 points.
    f.augment.waveform = (
        dict(name="speed", low_factor=0.8, high_factor=1.25),
        dict(name="shift", max_share=0.1, circular=False),
        dict(name="noise", low_snr_db=10.0, high_snr_db=40.0, probability=0.5),
    )
    f.model.encoder = encoder | dict(mask_probability=0.3, mask_span=5)
    f.model.layers = "weighted"
    f.model.projection = 128
    f.optimizer.learning_rate = 1e-3
    f.optimizer.warmup_fraction = 0.1
    f.train.batch_size = 32
    f.train.steps = 400
    if arg.scratch:
        c.stages = ("finetune",)
    else:
        f.init_from = "pretrain"
    if arg.pretrain_only:
        c.stages = ("pretrain",)
    return c
