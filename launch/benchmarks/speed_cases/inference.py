"""(c) Inference of wav2vec 2.0, beside transformers'."""

from collections.abc import Callable, Iterator

from launch.benchmarks.speed_cases.case import Case, Run, Sizes, same_for
from launch.benchmarks.speed_cases.ours import Ours, finetuning_config, shape_of
from launch.benchmarks.speed_cases.peers import finish, peer_torch, peer_variants


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the case."""
    torch, device = peer_torch()
    ours = Ours(finetuning_config(sizes, sizes.inference_clips), "finetune")
    audio, _ = ours.peer_batch()

    def make(prepare_model: Callable) -> Run:
        model = prepare_model(ours.peer("Wav2Vec2ForSequenceClassification").eval())

        def run() -> None:
            with torch.inference_mode():
                model(audio.to(device))
            finish()

        return run

    peers = peer_variants(make, "transformers")
    yield Case(
        f"wav2vec 2.0 {sizes.encoder}, inference, {shape_of(ours)}",
        ours.predict,
        peers,
        same_for(peers, 2.0),
    )
