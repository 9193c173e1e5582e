"""Fine-tunes Whisper's encoder on a folder of labelled sounds.

    python -m sacjax.main --config configs/whisper/finetune.py --workdir runs/finetuned \\
        --config.finetune.data.path=DIR --config.finetune.init_from=hf:CHECKPOINT

CHECKPOINT is a folder, or ORG/NAME@REVISION of a hub, of a whole Whisper or of an audio classifier.
The front end is Whisper's, of 80 mels: large-v3 has 128, --config.finetune.frontend.n_mels=128.
Each clip is heard as 30 s, silent after its end, however short it is, as the weights know it. With
--config.finetune.model.encoder.padding=mask short clips cost less, but the weights must learn that.
The head learns alone for the first tenth of the updates, then at 20 times the encoder's rate.
"""

from sacjax import config as config_lib


def get_config():
    c = config_lib.default(finetune=config_lib.stage())
    f = c.finetune
    f.data.source = "folder"
    f.data.sample_rate = 16000
    f.data.seconds = 30.0
    f.frontend.n_fft = 400
    f.frontend.hop_length = 160
    f.frontend.n_mels = 80
    f.frontend.fmax = 8000.0
    f.frontend.log = "db"
    f.frontend.top_db = 80.0
    f.frontend.normalize = "global"
    f.frontend.mean = -40.0
    f.frontend.std = 40.0
    f.model.name = "whisper"
    f.model.projection = 256
    f.optimizer.learning_rate = 3e-5
    f.optimizer.schedule = "linear"
    f.optimizer.warmup_fraction = 0.1
    f.optimizer.multipliers = (("^(head|project)", 20.0),)
    f.optimizer.freeze = (("encoder", 200),)
    f.train.batch_size = 16
    f.train.steps = 2000
    f.train.evaluate_every = 200
    f.eval.checkpoint = "best"
    return c
