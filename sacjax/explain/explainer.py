"""From a recording to what each method says of it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sacjax.data import decode, pipeline, retry
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError, nearest
from sacjax.explain.maps import Map, Transform
from sacjax.explain.methods import (
    attention_rollout,
    grad_cam,
    integrated_gradients,
    occlusion,
)
from sacjax.explain.network import Network
from sacjax.explain.sound import ATTENUATION, important, masked
from sacjax.explain.subject import Subject
from sacjax.inference import Model

METHODS: dict[str, str] = {
    "integrated_gradients": "integrated gradients",
    "grad_cam": "Grad-CAM",
    "occlusion": "occlusion",
    "attention_rollout": "attention rollout",
}
"""{name: as it is written}."""

SHARE = 0.5
"""Of what speaks for a label, which the important part holds."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a method says of a sound."""

    map: Map
    sound: np.ndarray
    """float32 [n]: all but the important part attenuated."""

    important: float
    """The label's probability of the important part, the rest muted."""

    rest: float
    """The label's probability of the rest, the important part muted."""

    figures: dict[str, float]
    """What else the method tells; of integrated gradients `difference` of logits, and `missing`."""


@dataclasses.dataclass(frozen=True)
class Explained:
    """Why a sound has a label."""

    label: str
    probability: float
    start: float
    """Seconds, where the window that is explained begins."""

    samples: np.ndarray
    """float32 [n], of the window, at the model's rate."""

    methods: dict[str, Found]


class Explainer:
    """Tells which part of a sound makes a classifier's label."""

    def __init__(
        self,
        model: Model,
        methods: Sequence[str] = (),
        share: float = SHARE,
        attenuation: float = ATTENUATION,
    ):
        """Takes a trained classifier.

        Args:
          model: of `sacjax.load`.
          methods: of `METHODS`; () = all that are defined for its encoder.
          share: of what speaks for the label, which the important part holds.
          attenuation: decibels by which the rest is quieter in the sound to listen to.

        Raises:
          UserError: a model without labels, or a method that its encoder does not have.
        """
        if not model.is_classifier:
            raise UserError(
                f"stage {model.stage} was trained without labels: there is no label to explain; "
                "fine-tune it (init_from)"
            )
        if not 0 < share < 1:
            raise UserError(f"--share is {share:g}: it must lie between 0 and 1")
        if not attenuation > 0:
            raise UserError(f"--attenuation is {attenuation:g}: it must be more than 0 dB")
        self.model, self.network = model, Network(model)
        there = available(self.network)
        for name in methods:
            if name not in METHODS:
                raise UserError(f"--method is '{name}'{nearest(name, METHODS)}")
            if name not in there:
                raise UserError(
                    f"--method is {name}, which is not defined for "
                    f"model.name={self.network.stage.model.name}; those that are: "
                    f"{', '.join(there)}"
                )
        self.methods = tuple(methods) or there
        self.share, self.attenuation = share, attenuation
        self.transform = Transform.at(model.sample_rate)

    def __call__(
        self, recordings: Recordings, index: int, label: str = "", start: float | None = None
    ) -> Explained:
        """Returns what each method says of a recording.

        Args:
          recordings: of `sounds.as_recordings`.
          index: which one.
          label: which label to explain; '' = the most probable one.
          start: seconds, where the window begins; None: of a recording that is longer than the
            model's window, the window that speaks most for the label.

        Raises:
          UserError: a label that there is not, or a negative start.
          retry.BadClip: a recording that cannot be read, or ends before `start`.
        """
        labels = self.model.labels
        if label and label not in labels:
            raise UserError(f"--label is '{label}'{nearest(label, labels)}")
        if start is not None and not start >= 0:
            raise UserError(f"--start is {start:g}: it must not be negative")
        best, number = None, labels.index(label) if label else -1
        for audio, length, begin in self._windows(recordings, index, start):
            p, logit = self._answer(audio, length)
            value = logit[number] if label else logit.max()
            if best is None or value > best[0]:
                best = value, audio, length, begin, p
        assert best is not None  # a recording without a window is a BadClip
        _, audio, length, begin, p = best
        number = number if label else int(np.argmax(p))
        heard = self.network.trimmed(audio[:length])
        audio = np.pad(heard, (0, len(audio) - len(heard)))
        subject = Subject(self.network, audio, len(heard), number)
        methods = {name: self._found(name, subject, heard, number) for name in self.methods}
        return Explained(labels[number], float(p[number]), begin, heard, methods)

    def _windows(
        self, recordings: Recordings, index: int, start: float | None
    ) -> Iterator[tuple[np.ndarray, int, float]]:
        """Yields (samples float32 [T], valid ones, seconds where they begin) of windows."""
        data, overlap = self.network.stage.data, self.network.stage.eval.overlap
        table = pipeline.windows(recordings, np.array([index]), data.seconds, overlap)
        places = [float(place) for place in table["start"]]
        if start is not None:
            whole = recordings.memo["lengths"][index]
            if whole and start >= whole:  # 0: it cannot be opened, and reading it says why
                raise retry.BadClip(f"--start is {start:g}, and it ends at {whole:.3f} s")
            places = [start]
        rate, size = data.sample_rate, round(data.seconds * data.sample_rate)
        for place in places:
            read = lambda place=place: decode.read_window(
                recordings.open(index), rate, place, data.seconds, data.pad, pcm=True
            )
            audio, length = retry.attempt(read)
            yield audio / np.float32(32768), decode.heard(length, size, data.pad), place

    def _answer(self, audio: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (probabilities [C], logits [C]) of samples float32 [T]."""
        lengths = np.array([length], np.int32)
        logits = np.asarray(self.model.logits(audio[None], lengths), np.float64)
        return self.model.objective.probabilities(logits)[0], logits[0]

    def _found(self, name: str, subject: Subject, heard: np.ndarray, number: int) -> Found:
        figures: dict[str, float] = {}
        if name == "integrated_gradients":
            integral = integrated_gradients(subject)
            map_ = integral.map
            figures = {"difference": integral.difference, "missing": integral.missing}
        else:
            function: Callable[[Subject], Map] = {
                "grad_cam": grad_cam,
                "occlusion": occlusion,
                "attention_rollout": attention_rollout,
            }[name]
            map_ = function(subject)
        kept = important(map_, self.share)
        rest = Map(1 - kept.values, kept.grid)
        size = round(self.network.stage.data.seconds * self.model.sample_rate)

        def alone(part: Map) -> float:
            """The rest is muted here: a model may not mind how loud a sound is."""
            sound = masked(heard, part, self.transform, np.inf)
            padded = np.pad(sound, (0, size - len(sound)))
            return float(self._answer(padded, len(sound))[0][number])

        sound = masked(heard, kept, self.transform, self.attenuation)
        return Found(map_, sound, alone(kept), alone(rest), figures)


def available(network: Network) -> tuple[str, ...]:
    """Returns the methods that are defined for a network's encoder, by their names."""
    has = {"grad_cam": network.has_maps, "attention_rollout": network.has_attention}
    return tuple(name for name in METHODS if has.get(name, True))
