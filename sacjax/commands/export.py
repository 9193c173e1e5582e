"""Writes a trained model as a file that runs without sacjax, wherever JAX does.

    sacjax export --checkpoint WORKDIR --output FOLDER

FOLDER/model.stablehlo takes sound and gives probabilities, or embeddings where the model was
trained without labels; the front end is inside. FOLDER/model.json says the rate, the labels, and
how long a clip may be. docs/own_recordings.md has the few lines of Python that call it.
"""

import argparse

from sacjax import io


def main(argv: list[str] | None = None) -> int:
    """Parses flags and exports; returns 0."""
    parser = argparse.ArgumentParser(
        prog="sacjax export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, metavar="WORKDIR")
    parser.add_argument(
        "--checkpoint_stage",
        metavar="NAME",
        help="the stage whose checkpoint it is (default: the last)",
    )
    parser.add_argument(
        "--which", choices=("best", "last"), help="default: what its config's eval.checkpoint says"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="it must not exist yet")
    args = parser.parse_args(argv)
    output = io.on_disk(args.output, "--output")
    from sacjax import compilation, inference
    from sacjax.inference import export

    compilation.start()
    model = inference.load(args.checkpoint, args.which, args.checkpoint_stage)
    about = export.write(model, output)
    gives = f"{len(about['labels'])} {about['output']}" if about["labels"] else about["output"]
    multiple, window = about["samples_multiple_of"], about["window_samples"]
    length = f"any multiple of {multiple}" if multiple else f"{window}"
    print(f"{output}: {export.PROGRAM}, {export.ABOUT}")
    print(f"in: clips of {length} samples at {about['sample_rate']} Hz; out: {gives}")
    return 0
