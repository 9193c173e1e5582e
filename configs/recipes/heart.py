"""Heart sounds: normal or abnormal, by patients never heard (CirCor 2022, PhysioNet 2016).

    sacjax train --config configs/recipes/heart.py --workdir runs/heart \\
        --config.supervised.data.path=DIR

CirCor's layout (PhysioNet challenge 2022): DIR/training_data.csv with `Patient ID` and `Outcome`,
DIR/training_data/2530_AV.wav; the number is the patient, all of whose recordings go to one part.
Who took part in both campaigns has two numbers (the column `Additional ID`), which count as two
patients here: remove the recordings of one of them. 60 % of the patients train, 20 % choose the
checkpoint, 20 % test; `split` draws others.

`data=physionet2016`: DIR/training-a/REFERENCE.csv without a header, `a0001,-1`, 1 abnormal and -1
normal, DIR/training-a/a0001.wav (leave out its folder `validation`, which repeats some). Names tell
no patient, so a whole database is left out to test: `fold` 1 is training-a, and so on; a fifth of
the other recordings validates.

Reported: sensitivity and specificity of patients (their recordings' mean probability, at 0.5) with
Wilson's 95 % intervals. Their mean is the score of the challenge of 2016. This is no medical
device, and the run says so. Result: docs/recipes.md.
"""

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

KINDS = ("circor", "physionet2016")


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, data="circor", fold=1, split=0)
    if arg.data not in KINDS:
        raise UserError(f"data is '{arg.data}'{nearest(arg.data, KINDS)}")
    c = config_lib.default()
    s = c.supervised
    s.data.source = "folder"
    if arg.data == "circor":
        s.data.label_pattern = r"/(\d+)_[^/]*$"
        s.data.group_pattern = r"/(\d+)_[^/]*$"
        s.data.label_table = "training_data.csv"
        s.data.label_columns = ("Patient ID", "Outcome")
        s.data.split_seed = arg.split
        positive = "Abnormal"
    else:
        s.data.label_pattern = r"/([a-f]\d+)\.wav$"
        s.data.label_table = "training-*/REFERENCE.csv"
        s.data.fold_pattern = r"^training-([a-f])/"
        s.data.fold = arg.fold
        positive = "1"
    s.data.sample_rate = 2000  # nothing of a heart is heard above 1 kHz
    s.data.seconds = 5.0
    s.data.balance = "over"
    s.data.cache = True
    s.frontend.n_fft = 128
    s.frontend.hop_length = 32
    s.frontend.n_mels = 32
    s.frontend.fmin = 20.0
    s.augment.waveform = (
        dict(name="shift"),
        dict(name="gain"),
        dict(name="noise", probability=0.5),
    )
    s.augment.spectrogram = (dict(name="frequency_mask", width=4), dict(name="time_mask", width=24))
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
