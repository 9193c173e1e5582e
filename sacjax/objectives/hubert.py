"""HuBERT (Hsu et al. 2021): tell the cluster of a masked token, of clusters made before.

k-means of MFCC gives the first targets; that of a layer of the network trained on these gives
better ones (`targets` names the stage). Centroids and that network are frozen parts of the model,
so that targets are made in the step, of the crop that the encoder hears. With `head=linear` and
targets of log-mels it is MelHuBERT (Lin et al. 2023).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from sacjax import models
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.similarity import unit
from sacjax.models.base import Tokens
from sacjax.objectives.base import Frozen, build_encoder, frozen_of, num_features
from sacjax.objectives.masked import CodeOptions, MaskedCodes, check_tokens, take
from sacjax.objectives.tokens import KINDS, TokenFeatures, check_aligned, token_grid
from sacjax.views import View, make_views

COLUMNS = ("audio", "length", "label", "mask", "index")


@dataclasses.dataclass(frozen=True)
class HubertOptions(CodeOptions):
    """`objective.options` of HuBERT; the defaults are those published for a first iteration."""

    targets: str = "mfcc"  # mfcc, log_mel, or an earlier stage, a workdir or hf:FOLDER
    layer: int = 6  # of that stage's encoder, 1 being the first; published: 6, then 9 for large
    clusters: int = 100  # published: 100 of MFCC, then 500
    kmeans_tokens: int = 200_000  # of training crops, on which clusters are fitted
    kmeans_starts: int = 20  # of which the best is taken
    stack: int = 2  # frames a token, of encoders of waveforms; spectrograms have theirs
    head: Literal["cosine", "linear"] = "cosine"  # to embeddings of clusters; linear: MelHuBERT
    code_dim: int = 256  # of the embeddings
    logit_temperature: float = 0.1  # of the cosine similarities
    mask_probability: float = 0.08
    feature_penalty: float = 10.0
    network: Any = None  # filled in: the encoder that `targets` names

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("layer", "kmeans_tokens", "kmeans_starts", "stack", "code_dim")
        self.require_positive("logit_temperature")
        self.require(self.clusters > 1, "clusters", "give two or more")

    @property
    def of_sound(self) -> bool:
        """Whether targets are made of the sound itself, not of a network."""
        return self.targets in KINDS


class HubertModel(nnx.Module):
    """Encoder and head; centroids and the network that they are of are frozen."""

    model_type = "hubert"
    """Of transformers, in which the encoder is a HubertModel."""

    def __init__(
        self,
        encoder: Any,
        network: Any,
        centroids: Float[Array, "clusters features"],
        options: HubertOptions,
        rngs: nnx.Rngs,
    ):
        """Takes an encoder of tokens, and None or the frozen network of the targets."""
        o = options
        self.encoder, self.network = encoder, network
        self.centroids = Frozen(centroids)
        cosine = o.head == "cosine"
        outputs = o.code_dim if cosine else o.clusters
        self.project = nnx.Linear(encoder.features, outputs, rngs=rngs)
        shape = (o.clusters, o.code_dim)
        self.embeddings = nnx.Param(jax.random.uniform(rngs.params(), shape)) if cosine else None


class Hubert(MaskedCodes):
    """HuBERT: tell masked tokens' k-means clusters of MFCC, or of an earlier stage's layer."""

    Options = HubertOptions
    options: HubertOptions

    @functools.cached_property
    def sound(self) -> TokenFeatures:
        """What targets of sound are made of."""
        kind: Any = self.options.targets
        return TokenFeatures(self.stage, kind, self.options.stack)

    @classmethod
    def source(cls, stage: ConfigDict) -> str:
        """Returns the stage, workdir or hf:FOLDER whose encoder the targets come from, or ''."""
        where = stage.objective.options.get("targets", HubertOptions.targets)
        return "" if where in KINDS else where

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for what does not fit the encoder, its input or its augmentation."""
        self = cls(stage)
        check_tokens(stage, self.options)
        if self.options.targets_from == "source":
            check_aligned(stage)
        if self.options.of_sound:
            assert self.sound.size  # what does not fit is refused
        elif self.options.network is not None:
            self.check_network()

    def check_network(self) -> None:
        """Raises UserError where the targets' network has other tokens, or too few layers."""
        other = self.stage.copy_and_resolve_references()
        with other.unlocked():
            other.model.name = self.options.network["name"]
            other.model.encoder = self.options.network["encoder"]
        where, grid = self.options.targets, token_grid(self.stage)
        found = token_grid(other)
        if found != grid:
            raise UserError(
                f"objective.options.targets={where} has {found.number} tokens a clip, this encoder "
                f"{grid.number}: give both the same strides and crops"
            )
        depth = nnx.eval_shape(lambda: self.build_network(None)).depth
        if self.options.layer > depth:
            raise UserError(
                f"objective.options.layer is {self.options.layer}: {where} has {depth} layers"
            )

    def build_network(self, values: Any) -> Any:
        """Returns the network of the targets, frozen; with `values` where they are given."""
        o = self.options
        if o.of_sound:
            return None
        if o.network is None:
            raise UserError(
                f"objective.options.targets is '{o.targets}': choose mfcc or log_mel, or name an "
                "earlier stage, a workdir or hf:FOLDER in a config that is run"
            )
        config = ConfigDict(
            dict(
                name=o.network["name"],
                encoder=dict(o.network["encoder"]),
                dtype=self.stage.model.dtype,
            )
        )
        made = models.build_encoder(config, num_features=num_features(self.stage), rngs=nnx.Rngs(0))
        network = frozen_of(made)
        if values is not None:
            nnx.update(network, values)
        return network

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters, and the artifacts as its frozen values."""
        given = artifacts or {}
        network = self.build_network(given.get("network"))
        size = self.sound.size if network is None else network.features
        centroids = jnp.asarray(given.get("centroids", jnp.zeros([self.options.clusters, size])))
        encoder = build_encoder(self.stage, rngs)
        return HubertModel(encoder, network, centroids, self.options, rngs)

    def prepare(self, batches: Callable[[], Iterable[dict[str, np.ndarray]]]) -> dict[str, Any]:
        """Returns the centroids, and the values of the targets' network.

        The first host's clips alone are clustered, and all hosts get its centroids.

        Args:
          batches: gives the stage's training batches, without end.

        Raises:
          UserError: fewer different tokens than clusters.
        """
        made: dict[str, Any] = {}
        if not self.options.of_sound:
            made["network"] = jax.device_get(nnx.as_pure(nnx.state(self.trained)))
        centroids = kmeans(self.heard(batches(), made.get("network")), self.options)
        if jax.process_count() > 1:
            centroids = np.asarray(multihost_utils.broadcast_one_to_all(centroids))
        return made | {"centroids": centroids}

    def heard(self, batches: Iterable[dict[str, np.ndarray]], values: Any) -> np.ndarray:
        """Returns what targets are made of, float32 [tokens, features], of as many as asked for."""
        views = make_views(self.stage, max(self.num_classes, 1))

        @jax.jit
        def run(values: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            view = views(batch)["source"]
            tokens = build_encoder(self.stage, nnx.Rngs(0)).tokens(*view)
            found = self.features_of(self.build_network(values), view, tokens.features.shape[1])
            inside = jnp.arange(found.shape[1]) < tokens.lengths[:, None]
            return found, inside & (batch["mask"] > 0)[:, None]

        found: list[np.ndarray] = []
        for batch in batches:
            x, inside = jax.device_get(run(values, {name: batch[name] for name in COLUMNS}))
            found.append(x[inside])
            if sum(map(len, found)) >= self.options.kmeans_tokens:
                break
        return np.concatenate(found)[: self.options.kmeans_tokens]

    def features_of(self, network: Any, view: View, number: int) -> jax.Array:
        """Returns what the targets of so many tokens are made of, float32 [B, number, F]."""
        if network is None:
            return self.sound(view, number)
        tokens = network.tokens(*view)
        states = network.context(tokens, Context(), hidden_states=True).hidden_states
        return states[self.options.layer].astype(jnp.float32)

    def codes(self, model: Any, view: View, tokens: Tokens, positions: jax.Array) -> jax.Array:
        """Returns the clusters of the tokens at positions [B, K] of a view, int32 [B, K, 1]."""
        found = self.features_of(model.network, view, tokens.features.shape[1])
        return nearest(take(found, positions), model.centroids[...])[..., None]

    def logits(self, model: Any, frames: jax.Array) -> jax.Array:
        """Returns the logits of clusters, float32 [B, K, 1, V], of frames [B, K, D]."""
        projected = model.project(frames)
        if model.embeddings is None:
            return projected[:, :, None]
        cosine = jnp.einsum("bkd,vd->bkv", unit(projected), unit(model.embeddings[...]))
        return cosine[:, :, None] / self.options.logit_temperature


def kmeans(x: np.ndarray, options: HubertOptions) -> np.ndarray:
    """Returns the centroids, float32 [clusters, features], by fairseq's settings of scikit-learn.

    Args:
      x: [tokens, features].
      options: how many clusters, and of how many starts the best is taken.

    Raises:
      UserError: fewer tokens than clusters.
    """
    if len(x) < options.clusters:
        raise UserError(
            f"objective.options.clusters is {options.clusters}, of {len(x)} tokens: lower it, or "
            "raise objective.options.kmeans_tokens"
        )
    from sklearn.cluster import MiniBatchKMeans  # here: it takes long to import

    fitted = MiniBatchKMeans(
        options.clusters,
        init="k-means++",
        batch_size=10_000,
        max_iter=100,
        n_init=options.kmeans_starts,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        tol=0.0,
        compute_labels=False,
        random_state=0,
    ).fit(x)
    return fitted.cluster_centers_.astype(np.float32)


def nearest(
    x: Float[Array, "batch tokens features"], centroids: Float[Array, "clusters features"]
) -> Int[Array, "batch tokens"]:
    """Returns the number of the centroid that is nearest to each token."""
    product = jnp.einsum("btf,vf->btv", x, centroids, precision="highest")
    return (jnp.square(centroids).sum(-1) - 2 * product).argmin(-1).astype(jnp.int32)
