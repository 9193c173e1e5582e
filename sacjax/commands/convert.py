"""`python -m sacjax.convert`: weights between sacjax's workdirs and folders of transformers' checkpoints.

    python -m sacjax.convert --from_huggingface PATH --workdir DIR           # predict, embed and probe can then read DIR
    python -m sacjax.convert --checkpoint WORKDIR --to_huggingface PATH      # from_pretrained can then read PATH

To fine-tune a checkpoint nothing needs converting: --config.finetune.init_from=hf:PATH reads it.
"""

import argparse
import sys
from pathlib import Path

from sacjax import compilation, errors
from sacjax import config as config_lib
from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.train.checkpoint import load_trained, write_trained


def to_workdir(path: str, workdir: str) -> str:
    """Writes a workdir with the checkpoint of a folder; returns the stage's name. Raises UserError."""
    loaded = huggingface.load_huggingface(path)
    if loaded.kind == "bare":
        raise UserError(
            f"{path}: a bare encoder has no head to put into a workdir; use it as init_from=hf:{path}, or as --checkpoint hf:{path} of "
            "sacjax.embed and sacjax.probe"
        )
    name = "finetune" if loaded.kind == "classification" else "pretrain"
    config = config_lib.default(**{name: huggingface.as_stage(loaded)})
    write_trained(workdir, config_lib.check(config), name, loaded.class_names, loaded.model)
    return name


def to_huggingface(workdir: str, path: str, which: str) -> None:
    """Writes the model of a workdir's last stage as a folder that transformers reads. Raises UserError."""
    trained = load_trained(workdir, which)
    rate = trained.stage_config.data.sample_rate
    huggingface.save_huggingface(
        trained.model,
        path,
        class_names=trained.class_names,
        sample_rate=rate,
        multi_label=trained.multi_label,
    )


def main(argv: list[str] | None = None) -> int:
    """Parses flags and converts."""
    compilation.start()
    parser = argparse.ArgumentParser(
        prog="python -m sacjax.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--from_huggingface", metavar="PATH", help="folder that save_pretrained wrote"
    )
    parser.add_argument("--workdir", help="of the result; it must not exist yet")
    parser.add_argument(
        "--checkpoint", metavar="WORKDIR", help="trained workdir to write for transformers"
    )
    parser.add_argument("--which", choices=("best", "last"), default="best")
    parser.add_argument(
        "--to_huggingface", metavar="PATH", help="folder of the result; it must not exist yet"
    )
    args = parser.parse_args(argv)
    into = bool(args.from_huggingface and args.workdir)
    out = bool(args.checkpoint and args.to_huggingface)
    if into == out:
        raise UserError(
            "give --from_huggingface with --workdir, or --checkpoint with --to_huggingface"
        )
    target = args.workdir if into else args.to_huggingface
    if Path(target).exists() and any(Path(target).iterdir()):
        raise UserError(f"{target} is not empty: choose another folder")
    if into:
        stage = to_workdir(args.from_huggingface, args.workdir)
        print(f"{args.from_huggingface} → {args.workdir}, stage {stage}")
    else:
        to_huggingface(args.checkpoint, args.to_huggingface, args.which)
        print(f"{args.checkpoint} → {args.to_huggingface}")
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
