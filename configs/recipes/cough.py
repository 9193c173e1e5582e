"""Coughs: healthy or ill, by people never heard (Coswara, COUGHVID).

    sacjax train --config configs/recipes/cough.py --workdir runs/cough \\
        --config.supervised.data.path=DIR

Coswara's layout: DIR/combined_data.csv with `id` and `covid_status`, and
DIR/Extracted_data/20200413/ID/cough-heavy.wav, cough-shallow.wav beside breaths and vowels, which
are left without a label. `positive_…` of any severity is one class, `healthy` the other; who is
neither is left out. All recordings of a person go to one part: 60 % of the people train, 20 %
choose the checkpoint, 20 % test; `split` draws others.

`data=coughvid`: DIR/metadata_compiled.csv with `uuid` and `status` (healthy or COVID-19; others are
left out), DIR/UUID.wav, .ogg or .webm (the latter needs the extra `av`). Whose recording it is
nobody knows, so each counts as a person, and one may be in two parts.

Reported: sensitivity and specificity of people (their recordings' mean probability, at 0.5) with
Wilson's 95 % intervals. Such data tell as much of how they were collected as of an illness: models
of them have failed on people recorded elsewhere (Coppock et al. 2024). This is no medical device,
and the run says so. Result: docs/recipes.md.
"""

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

KINDS = ("coswara", "coughvid")


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, data="coswara", split=0)
    if arg.data not in KINDS:
        raise UserError(f"data is '{arg.data}'{nearest(arg.data, KINDS)}")
    c = config_lib.default()
    s = c.supervised
    s.data.source = "folder"
    if arg.data == "coswara":
        s.data.label_pattern = r"([^/]+)/cough-(?:heavy|shallow)\."
        s.data.group_pattern = r"([^/]+)/[^/]+$"
        s.data.label_table = "combined_data.csv"
        s.data.label_columns = ("id", "covid_status")
        s.data.label_values = "^(healthy)$|^(positive)_"
        positive = "positive"
    else:
        s.data.label_pattern = r"([^/]+)\.[^./]+$"
        s.data.group_pattern = r"([^/]+)\.[^./]+$"
        s.data.label_table = "metadata_compiled.csv"
        s.data.label_columns = ("uuid", "status")
        s.data.label_values = "^(healthy|COVID-19)$"
        positive = "COVID-19"
    s.data.split_seed = arg.split
    s.data.sample_rate = 16000
    s.data.seconds = 3.0
    s.data.balance = "over"
    s.data.cache = True
    s.frontend.n_mels = 64
    s.frontend.trim_db = 40.0
    s.augment.waveform = (
        dict(name="shift"),
        dict(name="gain"),
        dict(name="noise", probability=0.5),
    )
    s.augment.spectrogram = (dict(name="frequency_mask", width=8), dict(name="time_mask", width=24))
    s.model.name = "spectrogram_resnet"
    s.model.encoder = dict(depth=18, width=16)
    s.model.pooling = "mean_max"
    s.optimizer.learning_rate = 1e-3
    s.optimizer.weight_decay = 0.05
    s.train.batch_size = 32
    s.train.epochs = 30
    s.eval.best = "validation/balanced_accuracy"
    s.eval.checkpoint = "best"
    s.eval.evaluators = (
        dict(name="classification"),
        dict(name="screening", positive=positive),
    )
    return c
