"""What is fuzzed: a file for each kind of input, which makes, mutates and reads it."""

from launch.benchmarks.fuzz_cases import audio, checkpoints, configs, manifests
from launch.benchmarks.fuzz_cases.case import Case

# 2,000 sound files, 500 manifests, 500 configs, 200 checkpoints.
CASES: dict[str, Case] = {
    "wav": Case(500, audio.corpus, audio.reads("wav")),
    "flac": Case(500, audio.corpus, audio.reads("flac")),
    "ogg": Case(500, audio.corpus, audio.reads("ogg")),
    "mp3": Case(500, audio.corpus, audio.reads("mp3")),
    "manifest": Case(500, manifests.corpus, manifests.check),
    "config": Case(500, configs.corpus, configs.check),
    "huggingface": Case(200, checkpoints.corpus, checkpoints.check),
}
