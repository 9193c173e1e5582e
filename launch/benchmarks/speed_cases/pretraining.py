"""(a) A training step of wav2vec 2.0, pretraining, beside transformers'."""

from collections.abc import Callable, Iterator
from typing import Any

from launch.benchmarks.speed_cases.case import Case, Run, Sizes, same_for
from launch.benchmarks.speed_cases.ours import Ours, pretraining_config, shape_of
from launch.benchmarks.speed_cases.peers import need, peer_torch, peer_variants, torch_step


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the case."""
    helpers = need("transformers.models.wav2vec2.modeling_wav2vec2", "parity")
    torch, device = peer_torch()
    ours = Ours(pretraining_config(sizes), "pretrain")
    audio, _ = ours.peer_batch()

    def make(prepare_model: Callable) -> Run:
        # Without apply_spec_augment transformers masks nothing, not even where it is told to.
        model = ours.peer("Wav2Vec2ForPreTraining", apply_spec_augment=True)
        shape = (len(audio), int(model._get_feat_extract_output_lengths(audio.shape[1])))
        # Drawn once: a DataLoader's workers would do that beside the step; ours draws in it.
        mask = helpers._compute_mask_indices(shape, 0.65, 10, min_masks=2)
        negatives = helpers._sample_negative_indices(shape, model.config.num_negatives, mask)
        mask, negatives = torch.from_numpy(mask), torch.from_numpy(negatives).long()
        run = prepare_model(model)

        def loss() -> Any:
            given = dict(
                mask_time_indices=mask.to(device), sampled_negative_indices=negatives.to(device)
            )
            return run(audio.to(device), **given).loss

        return torch_step(model, loss, ours.stage.optimizer.clip_norm)

    peers = peer_variants(make, "transformers")
    yield Case(
        f"wav2vec 2.0 {sizes.encoder}, pretraining step, {shape_of(ours)}",
        ours.step,
        peers,
        same_for(peers, 2.5),
    )
