"""The quickstart: 20 classes of synthesized sound, pretrained without labels, then few.

No download: a small wav2vec 2.0 learns from 1,960 clips without labels, then from few.

    python -m sacjax.main --config configs/quickstart.py --workdir runs/quickstart

Three stages, three to five minutes on two CPU cores: `pretrain` hears the training clips without
labels; `scratch` trains the network on ten labels a class alone; `finetune` does the same from the
pretrained encoder. `shots` is the number of labels a class. The recipe is that of
configs/wav2vec2/synthetic.py, and the sound that of configs/synthetic/few_labels.py.
"""

from pathlib import Path

from sacjax import config as config_lib

RECIPE = Path(__file__).parent / "wav2vec2" / "synthetic.py"


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, shots=10)
    return config_lib.load(f"{RECIPE}:shots={arg.shots}")
