"""ImageNet's weights as timm and torchvision have them, for pictures of spectrograms.

A folder holds model.safetensors and the config.json that timm writes, of which `architecture` is
what counts; torchvision's ResNets and VGG have the same names of tensors. Time runs along the width
of the picture, frequency along its height. The classifier's last layer is not read.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax.convert.base import Change, Entry, Family, Kind, Loaded, turn
from sacjax.errors import UserError
from sacjax.models import inception
from sacjax.models.base import Encoder
from sacjax.models.pictures import IMAGENET_MEAN, IMAGENET_STD

LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class PictureFamily(Family):
    """Networks of one structure on pictures; a subclass is a structure. It is only read."""

    written = ()
    class_bias = ""

    known: ClassVar[dict[str, dict[str, Any]]]
    """{`architecture` of config.json: options of our encoder}."""

    first: ClassVar[str]
    """The module there whose kernel goes over the picture."""

    modules: ClassVar[tuple[tuple[str, str], ...]] = ()
    """((regular expression of a module here, what it is there), …); the first that matches."""

    head: ClassVar[tuple[str, ...]] = ("fc.",)
    """What names of the last layers begin with."""

    mean: ClassVar[tuple[float, ...]] = IMAGENET_MEAN
    std: ClassVar[tuple[float, ...]] = IMAGENET_STD
    """Of the pictures' channels, as the encoder normalizes by them."""

    def __init_subclass__(cls) -> None:
        """Makes `architectures` of `known`."""
        cls.architectures = {name: {name: "bare"} for name in cls.known}

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the config.json. Raises UserError for pictures that were normalized otherwise."""
        told = config.get("pretrained_cfg", {})
        for key in ("mean", "std"):
            wanted = getattr(self, key)
            if key in told and not np.allclose(told[key], wanted):
                raise UserError(f"pretrained_cfg.{key} is {told[key]}; only {wanted} is supported")
        return config

    def encoder_options(
        self, config: dict[str, Any], preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the options of our encoder that fit a checkpoint."""
        return self.known[config["model_type"]] | dict(in_channels=3, imagenet_norm=True)

    def leaves_out(self, name: str) -> bool:
        """Returns whether a tensor is the last layer's, or counts the batches of a norm."""
        return name.startswith(self.head) or name.endswith("num_batches_tracked")

    def build(
        self, kind: Kind, encoder: Encoder, config: dict[str, Any], classes: int, rngs: nnx.Rngs
    ) -> Any:
        """Returns the encoder."""
        return encoder

    def entries(self, model: Any, model_type: str, names: Collection[str] = ()) -> Iterator[Entry]:
        """Yields every tensor of an encoder, whose modules are named as theirs but for `modules`.

        Of a spectrogram in one channel the first kernel is the sum over three.
        """
        for path, variable in nnx.to_flat_state(nnx.state(model)):
            *module, leaf = map(str, path)
            owner = self._theirs(".".join(module))
            summed = model.in_channels == 1 and owner == self.first and leaf == "kernel"
            load = _summed if summed else LOADS[len(variable.get_value().shape)]
            yield Entry(f"{owner}.{LEAVES.get(leaf, leaf)}", path, None, load)

    def _theirs(self, module: str) -> str:
        """Returns the name of a module there."""
        for pattern, name in self.modules:
            if re.search(pattern, module):
                return re.sub(pattern, name, module)
        return module

    def describe(self, stage: ConfigDict, loaded: Loaded) -> None:
        """Sets an objective for any encoder of spectrograms, as there is no head."""
        stage.objective.name = "simclr"


class ResNetFamily(PictureFamily):
    """ResNet-18, 34, 50 and 101 of timm and torchvision."""

    encoder = "spectrogram_resnet"
    known = {
        f"{prefix}resnet{depth}": dict(depth=depth)
        for prefix in ("", "tv_")
        for depth in (18, 34, 50, 101)
    }
    first = "conv1"
    modules = ((r"downsample\.conv$", "downsample.0"), (r"downsample\.bn$", "downsample.1"))


class VGGFamily(PictureFamily):
    """VGG-11 with batch norm of timm and torchvision."""

    encoder = "vgg11"
    known = {"vgg11_bn": {}}
    first = "features.0"
    modules = tuple(
        (rf"^{kind}\.{number}$", f"features.{place + (kind == 'bn')}")
        for number, place in enumerate((0, 4, 8, 11, 15, 18, 22, 25))
        for kind in ("conv", "bn")
    )
    head = ("pre_logits.", "head.", "classifier.")


class ConvNeXtFamily(PictureFamily):
    """ConvNeXt-Tiny of timm. The norm before its last layer belongs to that."""

    encoder = "convnext_tiny"
    known = {"convnext_tiny": {}}
    first = "stem.0"
    modules = (
        (r"^stem\.conv$", "stem.0"),
        (r"^stem\.norm$", "stem.1"),
        *(
            (rf"^downsample\.{k}\.{part}$", f"stages.{k + 1}.downsample.{number}")
            for k in range(3)
            for number, part in enumerate(("norm", "conv"))
        ),
        (r"^stages\.(\d+)\.(\d+)", r"stages.\1.blocks.\2"),
    )
    head = ("head.",)


class EfficientNetFamily(PictureFamily):
    """EfficientNet-B0 of timm."""

    encoder = "efficientnet_b0"
    known = {"efficientnet_b0": {}}
    first = "conv_stem"
    head = ("classifier.",)


class InceptionFamily(PictureFamily):
    """Inception v3 of timm, without the auxiliary classifier."""

    encoder = "inception_v3"
    known = {"inception_v3": {}}
    first = "Conv2d_1a_3x3.conv"
    head = ("fc.", "AuxLogits.")
    mean, std = inception.MEAN, inception.STD


PICTURES = (
    ResNetFamily(),
    VGGFamily(),
    ConvNeXtFamily(),
    EfficientNetFamily(),
    InceptionFamily(),
)


def _linear(x: np.ndarray) -> np.ndarray:
    """Returns a linear map, [O, I] or a kernel [O, I, 1, 1], as [I, O]."""
    return turn(x.reshape(x.shape[:2]))


def _summed(x: np.ndarray) -> np.ndarray:
    """Returns a kernel [O, 3, H, W] for one channel that stands for three alike: [W, H, 1, O]."""
    return turn(x.sum(1, keepdims=True))


LOADS: dict[int, Change] = {1: np.asarray, 2: _linear, 4: turn}
"""By how many axes ours has."""
