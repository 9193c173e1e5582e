"""Whole workdirs from folders of transformers' checkpoints, and back."""

from typing import Any

from sacjax import config as config_lib
from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.inference import load_trained
from sacjax.train.trained import write_trained


def to_workdir(path: str, workdir: str) -> str:
    """Writes a workdir with the checkpoint of a folder, and returns the name of its stage.

    Args:
      path: the folder, or ORG/NAME or ORG/NAME@REVISION of a hub.
      workdir: of the result.

    Raises:
      UserError: the folder holds a bare encoder, or what `folder_of` or `load_huggingface` refuse.
    """
    loaded = huggingface.load_huggingface(huggingface.folder_of(f"hf:{path}") or path)
    if loaded.kind == "bare":
        raise UserError(
            f"{path}: a bare encoder has no head to put into a workdir; use it as "
            f"init_from=hf:{path}, or as --checkpoint hf:{path} of embed and probe"
        )
    name = "finetune" if loaded.kind == "classification" else "pretrain"
    config = config_lib.default(**{name: huggingface.as_stage(loaded)})
    write_trained(workdir, config_lib.check(config), name, loaded.class_names, loaded.model)
    return name


def to_huggingface(workdir: str, path: str, which: str | None = None) -> None:
    """Writes the model of a workdir's last stage as a folder that transformers reads.

    A temperature of `eval.temperature` goes into the head's weights. A classifier of the sigmoid
    loss is said to have several labels, also where its clips have one: else transformers' pipeline
    would take the softmax of its logits.

    Args:
      workdir: of a run, or of `to_workdir`.
      path: the folder of the result.
      which: the stage's `best` or `last` checkpoint; None: what its `eval.checkpoint` says.

    Raises:
      UserError: no workdir, no checkpoint in it, or transformers has no counterpart of its model.
    """
    trained = load_trained(workdir, which)
    decides = trained.is_classifier and trained.objective.options.loss == "sigmoid"
    if trained.is_classifier and trained.objective.temperature != 1:
        head: Any = trained.module.head
        for weights in (head.kernel, head.bias):
            weights[...] = weights[...] / trained.objective.temperature
    huggingface.save_huggingface(
        trained.module,
        path,
        class_names=trained.labels,
        sample_rate=trained.sample_rate,
        multi_label=trained.multi_label or decides,
        frontend=trained.stage_config.frontend,
    )
