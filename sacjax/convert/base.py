"""The contract of a family of transformers' architectures: its names and options in our terms.

Reading and writing of folders is `sacjax.convert.huggingface`, and the same for all families.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax.errors import UserError
from sacjax.models.base import Encoder

Change = Callable[[np.ndarray], np.ndarray]
Kind = Literal["bare", "pretraining", "classification"]
SEVERAL = "multi_label_classification"


def same(x: np.ndarray) -> np.ndarray:
    """Returns it as it is."""
    return x


def turn(x: np.ndarray) -> np.ndarray:
    """Returns it with its axes in reverse: a linear map's, or [out, in, k] ↔ [k, in, out]."""
    return np.ascontiguousarray(x.T)


class Entry(NamedTuple):
    """A tensor: its name there, its path and layer here, and how it is brought here and back."""

    theirs: str
    ours: tuple
    layer: int | None = None
    load: Change = same
    save: Change = same
    absent: Callable[[tuple[int, ...]], np.ndarray] | None = None
    """Gives its value, from its shape, where a file does not have it; None: a file has to."""


def linear(theirs: str, ours: tuple, layer: int | None = None) -> Iterator[Entry]:
    """Yields the two tensors of a linear map."""
    yield Entry(f"{theirs}.weight", (*ours, "kernel"), layer, turn, turn)
    yield Entry(f"{theirs}.bias", (*ours, "bias"), layer)


def norm(theirs: str, ours: tuple, layer: int | None = None) -> Iterator[Entry]:
    """Yields the two tensors of a norm."""
    yield Entry(f"{theirs}.weight", (*ours, "scale"), layer)
    yield Entry(f"{theirs}.bias", (*ours, "bias"), layer)


class Loaded(NamedTuple):
    """A checkpoint in our terms."""

    family: "Family"
    kind: Kind
    model: Any  # the encoder, or a model with a head around it, in evaluation mode
    encoder_options: dict[str, Any]  # `model.encoder`
    sample_rate: int  # Hz
    class_names: tuple[str, ...]
    config: dict[str, Any]  # config.json
    preprocessor: dict[str, Any]  # preprocessor_config.json


class Family:
    """Architectures of transformers that one of our encoders stands for; a subclass is a file."""

    encoder: ClassVar[str]
    """Its name in `sacjax.models.ENCODERS`."""

    architectures: ClassVar[dict[str, dict[str, Kind]]]
    """{`model_type` of config.json: {class: its kind}}; the first class is the bare encoder."""

    written: ClassVar[tuple[type, ...]]
    """The encoder, and models around it whose heads are written too; (): it is only read."""

    class_bias: ClassVar[str]
    """The tensor of a classifier that has as many elements as there are classes."""

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns a config.json with transformers' defaults where keys are absent.

        Raises:
          UserError: it asks for what our encoder does not have; the message begins with the key.
        """
        raise NotImplementedError

    def num_features(self, config: dict[str, Any]) -> int:
        """Returns the bands of the spectrograms that it takes; encoders of waveforms ignore it.

        Args:
          config: of `complete`.
        """
        return 64

    def encoder_options(
        self, config: dict[str, Any], preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the options of our encoder.

        Args:
          config: of `complete`.
          preprocessor: preprocessor_config.json; {} where there is none.
        """
        raise NotImplementedError

    def front_end(
        self, config: dict[str, Any], sample_rate: int, preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the `frontend` whose features the encoder takes; {} where it takes waveforms.

        Args:
          config: of `complete`.
          sample_rate: Hz.
          preprocessor: preprocessor_config.json; {} where there is none.
        """
        return {}

    def require_front_end(
        self,
        config: dict[str, Any],
        sample_rate: int,
        preprocessor: dict[str, Any],
        frontend: ConfigDict,
    ) -> None:
        """Raises UserError for a `frontend` that theirs does not compute.

        Args:
          config: what `front_end` needs of it.
          sample_rate: Hz.
          preprocessor: preprocessor_config.json that would be written.
          frontend: of a model's stage.
        """
        # Silence is cut of waves too, and they cut none.
        wanted = self.front_end(config, sample_rate, preprocessor) | {"trim_db": 0.0}
        other = [f"frontend.{k}={v}" for k, v in wanted.items() if frontend[k] != v]
        if other:
            raise UserError(
                f"the model's front end has no counterpart in transformers' {self.encoder}, whose "
                + ", ".join(other)
            )

    def leaves_out(self, name: str) -> bool:
        """Returns whether a tensor of a file is not read, such as a decoder's."""
        return False

    def build(
        self, kind: Kind, encoder: Encoder, config: dict[str, Any], classes: int, rngs: nnx.Rngs
    ) -> Any:
        """Returns the encoder with the head of its kind around it; a bare one as it is."""
        raise NotImplementedError

    def entries(self, model: Any, model_type: str, names: Collection[str] = ()) -> Iterator[Entry]:
        """Yields every tensor of a model.

        Args:
          model: as `build` returns it.
          model_type: of config.json.
          names: those of a file that is read, for tensors that have had several spellings.
        """
        raise NotImplementedError

    def describe(self, stage: ConfigDict, loaded: Loaded) -> None:
        """Sets in a stage what would build a checkpoint's head.

        `huggingface.as_stage` sets the encoder, the front end, the sample rate and the kind of
        labels.
        """
        raise NotImplementedError

    def config(
        self, model: Any, class_names: tuple[str, ...], model_type: str, multi_label: bool
    ) -> dict[str, Any]:
        """Returns the config.json of a model.

        Args:
          model: as `build` returns it.
          class_names: of a classifier; () = LABEL_0, LABEL_1, ….
          model_type: one of `architectures`; "" = what the options say.
          multi_label: whether a clip may have several labels.

        Raises:
          UserError: transformers has no counterpart of it.
        """
        raise NotImplementedError

    def preprocessor(
        self, model: Any, sample_rate: int, frontend: ConfigDict | None = None
    ) -> dict[str, Any]:
        """Returns the preprocessor_config.json of a model.

        Args:
          model: as `build` returns it.
          sample_rate: Hz.
          frontend: of the model's stage, where it is known.
        """
        raise NotImplementedError

    def additional_tensors(self, model: Any) -> dict[str, np.ndarray]:
        """Returns tensors that theirs has and ours does without, such as an identity map."""
        return {}


def encoder_of(model: Any) -> Encoder:
    """Returns the encoder of a model, or the model where it is one."""
    return getattr(model, "encoder", model)


def label_config(names: tuple[str, ...], count: int, multi_label: bool) -> dict[str, Any]:
    """Returns what config.json tells of a classifier's labels."""
    names = names or tuple(f"LABEL_{k}" for k in range(count))
    return dict(
        id2label={str(k): name for k, name in enumerate(names)},
        label2id={name: k for k, name in enumerate(names)},
        problem_type=SEVERAL if multi_label else "single_label_classification",
    )
