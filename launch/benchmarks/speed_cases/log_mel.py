"""(d) Log-mel spectrograms with SpecAugment, beside torch.stft, librosa and transformers'."""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from launch.benchmarks.speed_cases.case import Case, Run, Sizes
from launch.benchmarks.speed_cases.ours import Ours, resnet_config, shape_of
from launch.benchmarks.speed_cases.peers import finish, need, peer_torch


def torch_mask(x: Any, axis: int, count: int, width: int) -> Any:
    """Returns spectrograms [B, …] with spans along an axis set to 0, as SpecAugment does.

    `count` spans of 0 to `width` places, drawn for each clip.
    """
    torch, _ = peer_torch()
    size = x.shape[axis]
    u = torch.rand(2, len(x), count, 1, device=x.device)
    span = (u[0] * (min(width, size) + 1)).floor()
    start = (u[1] * (size - span + 1)).floor()
    place = torch.arange(size, device=x.device)
    masked = ((place >= start) & (place < start + span)).any(1)
    return x.masked_fill(masked.unsqueeze(3 - axis), 0.0)


def torch_specaugment(x: Any, stage: ConfigDict, time_axis: int) -> Any:
    """Returns spectrograms masked as the config says."""
    axes = {"frequency_mask": 3 - time_axis, "time_mask": time_axis}
    for spec in stage.augment.spectrogram:
        x = torch_mask(x, axes[spec["name"]], spec["count"], spec["width"])
    return x


def torch_features(stage: ConfigDict) -> Callable[[Any], Any]:
    """Returns the config's log-mel spectrogram with SpecAugment in torch.

    Audio float32 [B, T] → [B, mels, frames].
    """
    torch, device = peer_torch()
    c = stage.frontend
    filters = torch.from_numpy(
        need("librosa", "test").filters.mel(
            sr=stage.data.sample_rate, n_fft=c.n_fft, n_mels=c.n_mels
        )
    ).to(device)
    window = torch.hann_window(c.n_fft, device=device)

    def features(audio: Any) -> Any:
        x = torch.stft(
            audio, c.n_fft, c.hop_length, window=window, pad_mode="reflect", return_complex=True
        )
        x = 10 * torch.log10((filters @ (x.real.square() + x.imag.square())).clamp(min=c.floor))
        x = torch.maximum(x, x.amax((1, 2), keepdim=True) - c.top_db)
        return torch_specaugment((x - c.mean) / c.std, stage, time_axis=2)

    return features


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the case, at the AST extractor's rate, hop and number of bands."""
    torch, device = peer_torch()
    librosa, transformers = need("librosa", "test"), need("transformers", "parity")
    config = resnet_config(
        sizes,
        train__batch_size=sizes.spectrograms,
        data__sample_rate=16000,
        frontend__n_fft=1024,
        frontend__hop_length=160,
    )
    ours = Ours(config, "supervised")
    stage, c, (audio, _) = ours.stage, ours.stage.frontend, ours.peer_batch()
    samples, features = audio.numpy(), torch_features(ours.stage)
    extract = transformers.ASTFeatureExtractor(
        num_mel_bins=c.n_mels, max_length=1 + samples.shape[1] // c.hop_length
    )

    def by_torch() -> None:
        features(audio.to(device))
        finish()

    def by_librosa() -> None:
        x = librosa.feature.melspectrogram(
            y=samples,
            sr=stage.data.sample_rate,
            n_fft=c.n_fft,
            hop_length=c.hop_length,
            n_mels=c.n_mels,
        )
        x = librosa.power_to_db(x, top_db=c.top_db)
        torch_specaugment(torch.from_numpy((x - c.mean) / c.std), stage, time_axis=2)

    def by_extractor() -> None:
        x = extract(list(samples), sampling_rate=stage.data.sample_rate, return_tensors="pt")[
            "input_values"
        ]
        torch_specaugment(x, stage, time_axis=1)

    peers: dict[str, Run] = {
        "torch.stft": by_torch,
        "librosa": by_librosa,
        "transformers' AST extractor": by_extractor,
    }
    targets = dict(zip(peers, (1.5, 1.5, 5.0), strict=True))
    yield Case(
        f"log-mel + SpecAugment, {shape_of(ours)}, {c.n_mels} bands", ours.features, peers, targets
    )
