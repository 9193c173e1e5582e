"""Fine-tunes a wav2vec 2.0, HuBERT or data2vec-audio checkpoint on a folder of labelled sounds.

    python -m sacjax.main --config configs/wav2vec2/finetune.py --workdir runs/finetuned \\
        # Or a workdir of sacjax.
        --config.finetune.data.path=DIR --config.finetune.init_from=hf:CHECKPOINT

Convolutions stay frozen, the Transformer for the first tenth of the updates. Dropouts, masks, rate
and betas are those of fairseq's base_10h.yaml, which fine-tunes for 20,000 updates, half of them
with a frozen Transformer, and without a rate of its own for the head. The encoder's shape comes
from the checkpoint.
"""

from sacjax import config as config_lib


def get_config():
    c = config_lib.default(finetune=config_lib.stage())
    f = c.finetune
    f.data.source = "folder"
    f.data.sample_rate = 16000
    f.data.seconds = 5.0
    f.model.name = "wav2vec2"
    f.model.encoder = dict(
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.1,
        projection_dropout=0.0,
        layer_drop=0.05,
        mask_probability=0.65,
        mask_feature_probability=0.5,
        mask_feature_span=64,
    )
    f.model.layers = "weighted"
    f.model.projection = 256
    f.optimizer.learning_rate = 5e-5
    f.optimizer.schedule = "linear"
    f.optimizer.warmup_fraction = 0.1
    f.optimizer.beta2 = 0.98
    f.optimizer.multipliers = (("^(head|project|layer_weights)", 20.0),)
    f.optimizer.freeze = (
        ("encoder/conv", 0),
        ("encoder/(transformer|projection|positional|mask)", 500),
    )
    f.train.batch_size = 32
    f.train.steps = 5000
    f.train.evaluate_every = 250
    f.eval.checkpoint = "best"
    return c
