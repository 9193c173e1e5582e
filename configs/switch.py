"""A sound in hours of recordings: a water heater's switch, found after ten labelled seconds.

    python -m launch.benchmarks.home_sound runs/home
    sacjax train --config configs/switch.py --workdir runs/switch
    sacjax predict --checkpoint runs/switch --timeline runs/switch/events.csv \\
        --hop 0.05 --ignore background --min_duration 0.15 --merge_gap 0.2 \\
        --reference runs/home/test.csv runs/home/test_1.wav runs/home/test_2.wav

Half a minute of training. Of 121 events in an hour 80 % are found, and half of what is found is
one (events ±0.2 s: F1 60.4 %): ten seconds hold no dishes and no lamps to tell it from. More in
docs/live.md.

A GRU over log-mel, causal and normalized by constants, so that `sacjax stream` carries its state.
Windows of half a second every 50 ms, labelled by what is in their middle. Arguments: `folder`;
`labels`, train_all for those of all ten minutes; `features`, a pretrained wav2vec 2.0 in place of
the GRU, held still under a classifier: a workdir, or hf:facebook/wav2vec2-base with `rate=16000`,
the Hz that it hears.
"""

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, folder="runs/home", labels="train", features="", rate=8000)
    c = config_lib.default()
    s = c.supervised
    s.data.source = "manifest"
    s.data.path = f"{arg.folder}/{arg.labels}.csv"
    s.data.validation_fraction = 0.0
    s.data.sample_rate = arg.rate
    s.data.seconds = 0.5
    s.data.windows = 0.05
    s.data.balance = "over"
    s.data.cache = True
    s.augment.waveform = (dict(name="gain"), dict(name="noise", probability=0.5))
    s.model.pooling = "mean_max"
    s.optimizer.learning_rate = 3e-3
    s.train.batch_size = 32
    s.train.steps = 300
    s.train.evaluate_every = 10**6
    s.eval.splits = ("train",)
    if arg.features:
        s.init_from = arg.features
        s.model.name = "wav2vec2"
        s.model.layers = "weighted"
        s.optimizer.freeze = (("^encoder/", 0),)
        return c
    s.frontend.n_fft = 256
    s.frontend.hop_length = 80
    s.frontend.n_mels = 40
    s.frontend.top_db = None
    s.frontend.normalize = "global"
    s.frontend.mean = -40.0
    s.frontend.std = 20.0
    s.model.name = "gru"
    s.model.encoder = dict(width=64, layers=2)
    return c
