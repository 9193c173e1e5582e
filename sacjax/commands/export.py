"""Writes a trained model as a file that runs without sacjax.

    sacjax export --checkpoint WORKDIR --output FOLDER
    sacjax export --checkpoint WORKDIR --output FOLDER --format onnx

FOLDER/model.stablehlo runs wherever JAX does, FOLDER/model.onnx wherever onnxruntime does, without
JAX. Either takes sound and gives probabilities, or embeddings where the model was trained without
labels; the front end is inside. FOLDER/model.json says the rate, the labels, and how long a clip
may be. docs/deploy.md has the few lines of Python that call them.
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
    parser.add_argument("--format", choices=("stablehlo", "onnx"), default="stablehlo")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="for onnx: weights and activations of 8 bits, their ranges taken of training clips",
    )
    parser.add_argument(
        "--page",
        metavar="ONNXRUNTIME_WEB",
        default="",
        help="for onnx: also write index.html, which labels the microphone in a browser, and copy "
        "its runtime from this folder of the npm package onnxruntime-web",
    )
    args = parser.parse_args(argv)
    output = io.on_disk(args.output, "--output")
    from sacjax import compilation, inference
    from sacjax.inference import export

    compilation.start()
    model = inference.load(args.checkpoint, args.which, args.checkpoint_stage)
    about = export.write(model, output, args.format, int8=args.int8, runtime=args.page)
    gives = f"{len(about['labels'])} {about['output']}" if about["labels"] else about["output"]
    multiple, window = about["samples_multiple_of"], about["window_samples"]
    length = f"any multiple of {multiple}" if multiple else f"{window}"
    program = export.PROGRAMS[args.format]
    megabytes = (output / program).stat().st_size / 1e6
    print(f"{output}: {program} ({megabytes:.1f} MB), {export.ABOUT}")
    print(f"in: clips of {length} samples at {about['sample_rate']} Hz; out: {gives}")
    if args.page:
        print(f"python -m http.server -d {output}, then http://localhost:8000 labels what it hears")
    return 0
