"""sacjax: self-supervised audio classification in JAX.

model = sacjax.load("runs/mine")                 # a workdir, or hf:FOLDER of transformers
model.predict("bark.wav").top(3)                 # [[('dog', 0.93), …]]
model.embed(["a.wav", "b.wav"])                  # float32 [2, D]
sacjax.run(sacjax.config.load("configs/quickstart.py"), "runs/quickstart")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from ml_collections import ConfigDict

    from sacjax.inference import Model

__version__ = "0.1.0"
__all__ = ["load", "run"]


def load(where: "str | Path", which: str | None = None, stage: str | None = None) -> "Model":
    """Loads a trained model; see `sacjax.inference.Model` for what it can do.

    Args:
      where: a workdir; `hf:FOLDER` of a checkpoint that transformers' `save_pretrained` wrote; or
        `hf:ORG/NAME`, `hf:ORG/NAME@REVISION` of a hub.
      which: its `best` or `last` checkpoint; None: what its config's `eval.checkpoint` says.
      stage: of the workdir; None: its last stage that has a checkpoint.

    Raises:
      sacjax.errors.UserError: no workdir or checkpoint there.
    """
    from sacjax import inference

    return inference.load(where, which, stage)


def run(config: "ConfigDict", workdir: "str | Path") -> dict[str, dict[str, float]]:
    """Trains and evaluates a config's stages; the same call again resumes.

    Args:
      config: of `sacjax.config.load` or `sacjax.config.default`.
      workdir: where everything is written.

    Returns:
      {stage: {'part/metric': value}}.

    Raises:
      sacjax.errors.UserError: a mistake in the config, the data or the workdir.
    """
    from sacjax import stages

    return stages.run(config, workdir)


def __getattr__(name: str) -> Any:
    """Imports `sacjax.config` and the like at their first use."""
    import importlib

    try:
        return importlib.import_module(f"sacjax.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"sacjax.{name}":  # a library that the module needs is not there
            raise
        raise AttributeError(f"module 'sacjax' has no attribute '{name}'") from error
