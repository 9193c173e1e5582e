"""ESC-50 (Piczak, ACM Multimedia 2015): 2,000 environmental recordings of 5 s.

There are 50 classes and 5 folds; `esc10` is the part under CC-BY, with 10 classes.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sacjax.data.tfds_builders.published import Layout, PublishedBuilder, pcm16
from sacjax.errors import UserError

CLASSES = (
    "dog rooster pig cow frog cat hen insects sheep crow "
    "rain sea_waves crackling_fire crickets chirping_birds water_drops wind pouring_water "
    "toilet_flush thunderstorm "
    "crying_baby sneezing clapping breathing coughing footsteps laughing brushing_teeth snoring "
    "drinking_sipping "
    "door_wood_knock mouse_click keyboard_typing door_wood_creaks can_opening washing_machine "
    "vacuum_cleaner clock_alarm clock_tick glass_breaking "
    "helicopter chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw"
).split()  # in the order of the published `target`
ESC10 = [CLASSES[target] for target in (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)]


class Esc50(PublishedBuilder):
    """Reads `meta/esc50.csv` and the files under `audio/` that it names, wav or ogg."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="esc50", description="All 50 classes."),
        tfds.core.BuilderConfig(name="esc10", description="The 10 classes under CC-BY."),
    ]
    URL = "https://github.com/karoldvl/ESC-50/archive/master.zip"
    FOLDERS = ("meta", "audio")
    SAMPLE_RATE = 44100

    def _info(self) -> tfds.core.DatasetInfo:
        names = ESC10 if self.builder_config.name == "esc10" else CLASSES
        features = {
            "audio": pcm16(self.SAMPLE_RATE),
            "audio/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=names),
            "fold": np.int64,  # 1 to 5
            "src_file": tfds.features.Text(),  # the Freesound recording that it was cut from
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("audio", "label"),
            homepage="https://github.com/karolpiczak/ESC-50",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {"train": self._generate_examples(self._layout(dl_manager))}

    def _generate_examples(self, layout: Layout) -> Iterator[tuple[str, dict]]:
        table = layout.read("meta/esc50.csv").decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(table)))
        missing = {"filename", "fold", "target", "category", "esc10", "src_file"} - set(
            rows[0] if rows else ()
        )
        if missing:
            raise UserError(
                f"{layout.root}/meta/esc50.csv: no rows, or the columns "
                f"{', '.join(sorted(missing))} are missing"
            )
        if self.builder_config.name == "esc10":
            rows = [row for row in rows if row["esc10"] == "True"]
            if not rows:
                raise UserError(f"{layout.root}/meta/esc50.csv: no row has esc10 = True")
        elif all(row["esc10"] == "True" for row in rows):
            raise UserError(f"{layout.root} holds only the ESC-10 part: set data.name=esc50/esc10")
        for row in rows:
            if not row["target"].isdigit() or CLASSES[
                int(row["target"]) : int(row["target"]) + 1
            ] != [row["category"]]:
                raise UserError(
                    f"{layout.root}/meta/esc50.csv: {row['filename']}: target {row['target']} is "
                    f"not '{row['category']}' in ESC-50"
                )
            if not row["fold"].isdigit():
                raise UserError(
                    f"{layout.root}/meta/esc50.csv: {row['filename']}: fold '{row['fold']}' is not "
                    "a number"
                )
            name = row["filename"]
            yield (
                name,
                {
                    "audio": self._decode(name, layout.read(f"audio/{name}")),
                    "audio/filename": name,
                    "label": row["category"],
                    "fold": int(row["fold"]),
                    "src_file": row["src_file"],
                },
            )
