"""Fine-tunes a network that was trained on ImageNet on the log-mel of labelled sounds.

    python -m sacjax.main --config configs/imagenet/finetune.py:encoder=spectrogram_resnet \\
        --workdir runs/pictures \\
        --config.finetune.data.path=DIR --config.finetune.init_from=hf:CHECKPOINT

CHECKPOINT is one of timm's or torchvision's: a folder, or ORG/NAME@REVISION of a hub; see
docs/weights.md. `encoder` is spectrogram_resnet, vgg11, convnext_tiny, efficientnet_b0 or
inception_v3. The spectrogram is its three channels, with the mean and contrast of ImageNet's
pictures. A head of 500 units with dropout learns first, alone; the norms of the trunk stand too;
then the head at a rate of 1e-2, the later half of the trunk at 1e-4, and what is below at 1e-8.
"""

from sacjax import config as config_lib

LATER = {
    "spectrogram_resnet": "layer[34]",
    "vgg11": "(conv|bn)/[4-7]",
    "convnext_tiny": "(downsample/[12]|stages/[23])",
    "efficientnet_b0": "(blocks/[456]|conv_head|bn2)",
    "inception_v3": "Mixed_[67][a-e]",
}


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, encoder="spectrogram_resnet")
    c = config_lib.default(finetune=config_lib.stage())
    f = c.finetune
    f.data.source = "folder"
    f.data.sample_rate = 22050
    f.data.seconds = 5.0
    f.frontend.n_fft = 2048
    f.frontend.hop_length = 512
    f.frontend.n_mels = 128
    f.frontend.normalize = "clip"
    f.model.name = arg.encoder
    f.model.head_norm = arg.encoder == "convnext_tiny"
    f.model.hidden = 500
    f.model.dropout = 0.5
    f.optimizer.learning_rate = 1e-2
    f.optimizer.multipliers = ((f"^encoder/{LATER[arg.encoder]}/", 1e-2), ("^encoder/", 1e-6))
    f.optimizer.freeze = (("^encoder/", 500),)
    f.train.batch_size = 32
    f.train.steps = 1500
    f.train.evaluate_every = 100
    f.eval.checkpoint = "best"
    return c
