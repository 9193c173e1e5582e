"""A ResNet teaches one a tenth as large, on real sound: the digits of FSDD or ESC-10.

    sacjax train --config configs/distillation/resnet.py --workdir runs/shrink/fsdd
    python launch/benchmarks/shrink.py      # trains, exports in 8 bits, and tells the table

`teacher` is trained as configs/fsdd/resnet.py or configs/esc50/resnet.py has it, `alone` is the
student without it, and `student` learns from both the teacher and the labels, for as many epochs.
Arguments: `task` (fsdd: the official test recordings; esc10), `fold` of ESC-10.
"""

from pathlib import Path

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest

CONFIGS = Path(__file__).parents[1]
# {task: (config, width of the teacher's ResNet-18, of the student's: a tenth of its parameters)}
TASKS = {"fsdd": ("fsdd/resnet.py", 16, 5), "esc10": ("esc50/resnet.py:esc10,fold={fold}", 24, 7)}
STAGES = ("teacher", "alone", "student")


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, task="fsdd", fold=1)
    if arg.task not in TASKS:
        raise UserError(f"task is '{arg.task}'{nearest(arg.task, TASKS)}")
    spec, teacher, student = TASKS[arg.task]
    base = config_lib.load(f"{CONFIGS / spec}".format(fold=arg.fold))
    stages = {name: base.supervised.copy_and_resolve_references() for name in STAGES}
    c = config_lib.default(**stages)
    c.checkpoint.every = base.checkpoint.every
    for s in stages.values():
        s.eval.splits = ("test",)
        s.model.encoder.width = student
    stages["teacher"].model.encoder.width = teacher
    s = stages["student"]
    s.objective.name = "distillation"
    s.objective.options = dict(teacher="teacher")
    return c
