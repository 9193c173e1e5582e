"""The report of a run: pictures under `plots/` and one self-contained `report.html`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from sacjax import io
from sacjax.data.recordings import Recordings
from sacjax.evaluators.suspects import Analysis
from sacjax.report import errors, html, plots, sections
from sacjax.report.answer import answer, predictions_path

__all__ = ["mistakes", "predictions_path", "write"]


def write(
    workdir: str | Path,
    stage: str,
    config: ConfigDict,
    results: dict[str, dict[str, float]],
    rows: Sequence[dict],
    recordings: Recordings,
    analysis: Analysis | None = None,
) -> None:
    """Writes `plots/*.png` and `report.html` when a stage has ended, or has failed.

    The page leads with the answer: one sentence and one picture. All else is folded below it.

    Args:
      workdir: where; the predictions of earlier stages are read from it, see `predictions_path`.
      stage: the stage of the predictions `rows`; the curves are those of all stages so far.
      config: the whole config.
      results: {stage: {'part/metric': value}}.
      rows: predictions of one part, as `evaluators.predictions.write_predictions` takes them, with
        `index`, the position in `recordings`.
      recordings: the source of the clips shown as mistakes; a clip that can no longer be read is
        shown without its sound.
      analysis: of the training part, where `eval.analysis` asks for it.
    """
    workdir, sub, names = io.to_path(workdir), config[stage], recordings.class_names
    folder = workdir / "plots"
    io.make_folder(folder)
    for stale in (*folder.glob("mistake_*.png"), folder / "answer.png"):
        stale.unlink(missing_ok=True)
    found = answer(workdir, stage, config, results, rows, recordings)
    picture = ""
    if found.figure is not None:
        content = plots.png(found.figure)
        io.write_bytes(folder / "answer.png", content)
        picture = html.picture(content, found.sentence)
    wrong = mistakes(rows, names, len(rows))
    temperature = results.get(stage, {}).get("validation/temperature", 1.0)
    body = [
        html.lead(found.sentence, found.notes, picture),
        sections.results_of(config, results),
        sections.confusion(folder, sub, rows, names),
        errors.calibration(folder, sub, rows, recordings, temperature),
        errors.confused_pairs(sub, rows, recordings),
        errors.slices(sub, rows, recordings),
        sections.wrong_clips(folder, sub, rows, recordings, wrong),
        sections.wrong_decisions(folder, sub, rows, recordings),
        errors.resembling(sub, wrong, recordings, analysis),
        errors.doubtful_labels(sub, recordings, analysis),
        *(
            sections.training(workdir, folder, name, config) + sections.sounds(workdir, name)
            for name in config.stages
        ),
        sections.data(stage, sub, recordings, rows),
        sections.whole_config(config),
    ]
    page = html.document(f"sacjax: {io.absolute(workdir).name}", "".join(body))
    io.write_text(workdir / "report.html", page)


def mistakes(rows: Sequence[dict], class_names: tuple[str, ...], most: int) -> list[dict]:
    """Returns the most confident wrong predictions of single labels, the most confident first.

    The confidence is the probability of the predicted class.
    """
    wrong = []
    for row in rows:
        p, label = row["probabilities"], row["label"]
        k = int(np.argmax(p))
        if label in class_names and class_names[k] != label:
            wrong.append(row | {"prediction": class_names[k], "confidence": float(p[k])})
    return sorted(wrong, key=lambda row: (-row["confidence"], row["file"]))[:most]
