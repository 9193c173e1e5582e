"""A small CNN learns from a ResNet thirty times as large, on synthesized sound.

    sacjax train --config configs/distillation/synthetic.py --workdir runs/distillation

The sounds are those of configs/synthetic/few_labels.py, all of them labelled; minutes on two CPU
cores. `teacher` is trained first, `alone` is the student without it, and `student` learns from both
the teacher and the labels. Arguments: `teacher=WORKDIR` takes a trained one in place of the first
stage; `match=features` its pooled vectors in place of its soft labels.
"""

from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, teacher="", match="labels")
    stages = dict(alone=config_lib.stage(), student=config_lib.stage())
    if not arg.teacher:
        stages = dict(teacher=config_lib.stage()) | stages
    c = config_lib.default(**stages)
    for s in stages.values():
        s.data.source = "synthetic"
        s.data.examples = 2800
        s.data.holdout = (0.7, 0.1, 0.2)
        s.data.cache = True
        s.data.sample_rate = 8000
        s.frontend.n_fft = 256
        s.frontend.hop_length = 128
        s.frontend.n_mels = 48
        s.augment.waveform = (dict(name="shift", max_share=0.1), dict(name="gain"))
        s.augment.spectrogram = (dict(name="mixup", alpha=1.0),)
        s.model.name = "small_cnn"
        s.model.encoder = dict(channels=(8, 16), hidden=32)
        s.model.pooling = "mean_max"
        s.optimizer.learning_rate = 3e-3
        s.optimizer.warmup_fraction = 0.1
        s.train.batch_size = 40
        s.train.steps = 400
        s.train.evaluate_every = 10**6
        s.eval.batch_size = 100
        s.eval.splits = ("test",)
    if not arg.teacher:
        t = stages["teacher"]
        t.model.name = "spectrogram_resnet"
        t.model.encoder = dict(depth=18, width=16, stem="small", stem_stride=2)
    s = stages["student"]
    s.objective.name = "distillation"
    s.objective.options = dict(teacher=arg.teacher or "teacher", match=arg.match)
    return c
