"""Other libraries: whether they are there, on what they compute, and how they train a model."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax

from launch.benchmarks.speed_cases.case import Run
from sacjax.data import pipeline
from sacjax.errors import UserError


def need(module: str, extra: str) -> Any:
    """Returns a peer's module. Raises UserError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"this part measures {module}, which is absent: pip install -e '.[{extra}]'"
        ) from error


@functools.cache
def peer_torch() -> tuple[Any, str]:
    """Returns (torch, its device): all cores, or the GPU where JAX computes on one."""
    torch = need("torch", "parity")
    torch.set_num_threads(pipeline.cores())
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX; nothing on a CPU
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        raise UserError("JAX has a GPU and torch has none: install torch's CUDA build")
    return torch, "cuda" if jax.default_backend() == "gpu" else "cpu"


def finish() -> None:
    """Waits for torch's GPU."""
    torch, device = peer_torch()
    if device == "cuda":
        torch.cuda.synchronize()


def peer_variants(make: Callable[[Callable], Run], name: str) -> dict[str, Run]:
    """Returns {peer: run} of what `make` builds: eager, and on a GPU compiled too.

    Args:
      make: given a function that prepares a model, builds what is run.
      name: of the peer.
    """
    torch, device = peer_torch()
    runs = {name: make(lambda model: model)}
    return runs | ({f"{name}, torch.compile": make(torch.compile)} if device == "cuda" else {})


def torch_step(model: Any, loss: Callable[[], Any], clip_norm: float) -> Run:
    """Returns one update of a torch model by AdamW."""
    torch, _ = peer_torch()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    model.train()

    def step() -> None:
        loss().backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        finish()

    return step
