"""Machine anomaly: the error of an autoencoder of normal sound (DCASE task 2, MIMII).

    sacjax train --config configs/recipes/machine_anomaly.py --workdir runs/fan \\
        --config.detect.data.path=DIR/fan

DCASE 2020's layout: DIR/fan/train/normal_id_00_00000000.wav, DIR/fan/test/anomaly_id_00_….wav and
normal_id_00_….wav; the folders `train` and `test` are the protocol's own parts (folds 2 and 1 by
alphabet). A tenth of the normal training clips validates. Reported: the area under the ROC curve of
each machine's clips and its mean over machines, whole and up to a tenth of false alarms, as the
task has it (Koizumi et al. 2020). A warning says that no training clip has the label `anomaly`:
so it should be.

`layout=mimii` reads MIMII's folders, DIR/fan/id_00/normal/00000000.wav and …/abnormal/…: all
abnormal clips test, and the normal ones whose number ends in 0 to 3. Purohit et al. 2019 test on as
many normal clips as abnormal ones, so figures differ a little. Result: docs/recipes.md.
"""

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

# {layout: (label, fold, machine) in a name}
LAYOUTS = {
    "dcase": (r"/(normal|anomaly)_", r"^(train|test)/", r"id_\d+"),
    "mimii": (
        r"/(normal|abnormal)/",
        r"(id)_\d+/(?:abnormal/|normal/\d*[0-3]\.)|(normal)/",
        r"id_\d+",
    ),
}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, layout="dcase")
    if arg.layout not in LAYOUTS:
        raise UserError(f"layout is '{arg.layout}'{nearest(arg.layout, LAYOUTS)}")
    label, fold, machine = LAYOUTS[arg.layout]
    c = config_lib.default(detect=config_lib.stage())
    s = c.detect
    s.data.source = "folder"
    s.data.label_pattern = label
    s.data.fold_pattern = fold
    s.data.fold = 1
    s.data.validation_fraction = 0.1
    s.data.sample_rate = 16000
    s.data.seconds = 10.0
    s.data.cache = True
    s.frontend.n_fft = 1024
    s.frontend.hop_length = 512
    s.frontend.n_mels = 128
    s.frontend.normalize = "global"
    s.frontend.mean = -40.0
    s.frontend.std = 20.0
    s.frontend.top_db = None
    s.model.name = "autoencoder"
    s.model.encoder = dict(kind="conv", channels=(32, 64, 128), bottleneck=16)
    s.objective.name = "autoencoder"
    s.optimizer.learning_rate = 1e-3
    s.train.batch_size = 32
    s.train.epochs = 50
    s.eval.evaluators = (
        dict(name="objective"),
        dict(name="anomaly", normal="normal", max_false_positives=0.1, by=machine),
    )
    s.eval.best = "validation/loss"
    s.eval.best_mode = "min"
    s.eval.splits = ("test",)
    return c
