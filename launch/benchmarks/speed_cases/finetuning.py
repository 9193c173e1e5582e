"""(b) A training step of wav2vec 2.0, fine-tuning, beside transformers'."""

from collections.abc import Callable, Iterator

from launch.benchmarks.speed_cases.case import Case, Run, Sizes, same_for
from launch.benchmarks.speed_cases.ours import Ours, finetuning_config, shape_of
from launch.benchmarks.speed_cases.peers import peer_torch, peer_variants, torch_step


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the case."""
    _, device = peer_torch()
    ours = Ours(finetuning_config(sizes, sizes.clips), "finetune")
    audio, labels = ours.peer_batch()

    def make(prepare_model: Callable) -> Run:
        model = ours.peer("Wav2Vec2ForSequenceClassification")
        model.freeze_feature_encoder()
        run = prepare_model(model)
        return torch_step(
            model,
            lambda: run(audio.to(device), labels=labels.to(device)).loss,
            ours.stage.optimizer.clip_norm,
        )

    peers = peer_variants(make, "transformers")
    yield Case(
        f"wav2vec 2.0 {sizes.encoder}, fine-tuning step, {shape_of(ours)}",
        ours.step,
        peers,
        same_for(peers, 2.0),
    )
