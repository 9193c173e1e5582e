"""Free Spoken Digit Dataset (Jackson et al.): 3,000 English digits by 6 speakers at 8 kHz.

TFDS has the same recordings as `spoken_digit`, without their official protocol.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sacjax.data.tfds_builders.published import Layout, PublishedBuilder, pcm16
from sacjax.errors import UserError

NAME = re.compile(r"recordings/(\d)_([^/_]+)_(\d+)\.wav")


class Fsdd(PublishedBuilder):
    """Reads `recordings/{digit}_{speaker}_{index}.wav`.

    `official` tests on indices 0 to 4 of each digit and speaker, so that all speakers are in both
    parts. `loso` leaves one speaker out: fold k is the k-th speaker in alphabetical order.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="official", description="Splits train (indices 5 to 49) and test (0 to 4)."
        ),
        tfds.core.BuilderConfig(
            name="loso", description="One split; fold and group are the speaker."
        ),
    ]
    URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.10.zip"
    FOLDERS = ("recordings",)
    SAMPLE_RATE = 8000

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "audio": pcm16(self.SAMPLE_RATE),
            "audio/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
        }
        if self.builder_config.name == "loso":
            features |= {"speaker": tfds.features.Text(), "fold": np.int64}
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("audio", "label"),
            homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        layout = self._layout(dl_manager)
        found = [match for match in map(NAME.fullmatch, layout.folder("recordings")) if match]
        if not found:
            pattern = "recordings/{digit}_{speaker}_{index}.wav"
            raise UserError(f"{layout.root}: there are no files {pattern} in it")
        speakers = sorted({match[2] for match in found})
        parts = {"train": found}
        if self.builder_config.name == "official":
            parts = {
                "train": [match for match in found if int(match[3]) >= 5],
                "test": [match for match in found if int(match[3]) < 5],
            }
        return {
            part: self._generate_examples(layout, matches, speakers)
            for part, matches in parts.items()
            if matches
        }

    def _generate_examples(
        self, layout: Layout, matches: list[re.Match], speakers: list[str]
    ) -> Iterator[tuple[str, dict]]:
        for match in matches:
            name = match[0].removeprefix("recordings/")
            example = {
                "audio": self._decode(name, layout.read(match[0])),
                "audio/filename": name,
                "label": match[1],
            }
            if self.builder_config.name == "loso":
                example |= {"speaker": match[2], "fold": speakers.index(match[2]) + 1}
            yield name, example
