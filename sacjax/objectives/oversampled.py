"""A head on a frozen encoder that also learns from synthetic vectors of rare classes (SMOTE).

Before the first step the encoder embeds the training clips, and `sacjax.oversampling` makes vectors
of each class from theirs. In every step the head sees a batch's clips, and as many synthetic
vectors of the classes that have fewer clips than the most frequent one, with the weight that makes
all classes count alike. The encoder is in evaluation mode, so that its vectors stay what they were.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from sacjax import oversampling
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.pooling import Pooling, pooled_width
from sacjax.objectives.base import Frozen, Loss
from sacjax.objectives.classification import Classification, ClassificationOptions
from sacjax.train import optimizer
from sacjax.train.state import split_model
from sacjax.views import make_views


@dataclasses.dataclass(frozen=True)
class OversampledOptions(ClassificationOptions):
    """`objective.options` of an oversampled head, beside those of any classifier."""

    sampler: oversampling.Sampler = "smote"  # over: their own vectors, repeated
    neighbours: int = 5  # of the same class, between which and a vector a new one lies
    vectors: int = 64  # synthetic ones of each class to draw from

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("neighbours", "vectors")
        self.require(self.loss == "softmax", "loss", "synthetic vectors have one label each")
        none = self.class_weights == "none"
        self.require(none, "class_weights", "synthetic vectors make all classes count alike")


class Oversampled(Classification):
    """A head on a frozen encoder learns clips, and synthetic vectors of rare classes (SMOTE)."""

    Options = OversampledOptions
    options: OversampledOptions
    needs_start = True

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError unless the vectors are of a pretrained encoder that stays as it is."""
        super().check(stage)
        if stage.objective.options.get("sampler") != "over":
            oversampling.check_installed()
        name = "objective.name=oversampled"
        if not stage.init_from:
            raise UserError(f"init_from is empty: {name} needs a pretrained encoder")
        if stage.data.balance != "none":
            raise UserError(f"data.balance is '{stage.data.balance}': {name} needs none")
        for key, plain in (("layers", "last"), ("projection", 0)):
            if stage.model[key] != plain:
                raise UserError(f"model.{key} is {stage.model[key]!r}: {name} needs {plain!r}")
        if stage.model.pooling == "attention":
            raise UserError(f"model.pooling is 'attention', which learns: {name} needs another")
        self = cls(stage, ("one", "other"))
        _, params, _ = split_model(nnx.eval_shape(lambda: self.build(nnx.Rngs(0))))
        if not all(jax.tree.leaves(optimizer.frozen(stage.optimizer, params)["encoder"])):
            raise UserError(
                f"optimizer.freeze is {stage.optimizer.freeze}: {name} needs a frozen encoder, "
                "(('^encoder/', 0),)"
            )

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the classifier, with `synthetic` [C, V, D] and `lacking` [C] beside it."""
        model: Any = super().build(rngs)
        given = artifacts or {}
        shape = (self.num_classes, self.options.vectors, model.pooling.features)
        model.synthetic = Frozen(jnp.asarray(given.get("synthetic", jnp.zeros(shape))))
        lacking = given.get("lacking", jnp.zeros(self.num_classes))
        model.lacking = Frozen(jnp.asarray(lacking))
        return model

    def prepare(self, batches: Any) -> dict[str, Any]:
        """Returns the synthetic vectors, and how many each class lacks as a share of all clips.

        Each host embeds the clips that it reads. All get the first host's synthetic vectors, which
        are of all clips.

        Args:
          batches: gives the stage's training batches, without end.
        """
        x, labels = self.embedded(batches())
        made = lacking_vectors(x, labels, self.num_classes, self.options)
        if jax.process_count() > 1:
            made = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(made))
        return made

    def embedded(self, batches: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns (vectors [N, D], labels [N]) of all training clips, each once, as they are.

        On several hosts every one of them has to call it.

        Raises:
          UserError: none has a label and can be read.
        """
        views = make_views(self.stage, self.num_classes)
        graphdef, variables = nnx.split(self.trained)

        @jax.jit
        def run(variables: Any, batch: dict[str, Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
            encoder = nnx.merge(graphdef, variables)
            seen = views(batch)
            output = encoder(*seen["clean"], Context())
            pooling = Pooling(self.stage.model.pooling, encoder.features, rngs=nnx.Rngs(0))
            known = seen["mask"] * seen["labelled"]
            return pooling(output.frames, output.lengths), seen["label"].argmax(-1), known

        found: dict[int, tuple[np.ndarray, int]] = {}
        seen: set[int] = set()
        for batch in batches:
            if seen.issuperset(batch["index"].tolist()):  # an epoch has each clip once
                break
            seen.update(batch["index"].tolist())
            columns = {key: batch[key] for key in ("audio", "length", "label", "mask", "index")}
            for index, x, label, known in zip(
                batch["index"], *jax.device_get(run(variables, columns)), strict=True
            ):
                if known:
                    found.setdefault(int(index), (x, int(label)))
        width = pooled_width(self.stage.model.pooling, self.trained.features)
        vectors = np.array([x for x, _ in found.values()], np.float32).reshape(-1, width)
        labels = np.array([label for _, label in found.values()], np.int32)
        index = np.array(list(found), np.int32)
        if jax.process_count() > 1:
            index, vectors, labels = of_all_hosts(index, vectors, labels)
        if not len(index):
            raise UserError(
                "objective.name=oversampled: no clip to train on has a label and can be read"
            )
        return vectors, labels

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over labelled clips and, in training, what stands for lacking ones.

        The accuracy is that of the clips.
        """
        view, label = batch["views"][0], batch["label"]
        known = batch["mask"] * batch["labelled"]
        pooled = model.embed(view.inputs, view.lengths, Context())
        clips = len(label)
        if ctx.train:
            key: Any = ctx.rng(3)
            made, of = drawn(key, model.synthetic[...], model.lacking[...], clips)
            share = jnp.full(clips, model.lacking[...].sum() * known.mean())
            pooled = jnp.concatenate([pooled, made])
            label = jnp.concatenate([label, jax.nn.one_hot(of, self.num_classes)])
            known = jnp.concatenate([known, share])
        logits = model.classify(pooled, ctx)
        example, weight = self.examples(logits, label, known, ctx)
        total, count = (example * weight).sum(), weight.sum()
        own = (x[:clips] for x in (example * weight, weight, logits, label, known))
        return Loss(total, count, self.summed(*own).metrics | {"loss": (total, count)})


def of_all_hosts(
    index: Int[np.ndarray, " clips"],
    vectors: Float[np.ndarray, "clips features"],
    labels: Int[np.ndarray, " clips"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the three arrays with the clips of all hosts, each once, in the order of `index`.

    Until each host has read a batch of clips that it has read before, an epoch is over, in which
    every clip is read by one of them.
    """
    most = int(np.max(multihost_utils.process_allgather(np.asarray(len(index)))))
    pad = lambda x: np.pad(x, [(0, most - len(x))] + [(0, 0)] * (x.ndim - 1), constant_values=-1)
    gathered = multihost_utils.process_allgather((pad(index), pad(vectors), pad(labels)))
    index, vectors, labels = (np.concatenate(np.asarray(x)) for x in gathered)
    numbers, first = np.unique(index, return_index=True)
    first = first[numbers >= 0]
    return index[first], vectors[first], labels[first]


def lacking_vectors(
    x: Float[np.ndarray, "clips features"],
    labels: Int[np.ndarray, " clips"],
    num_classes: int,
    options: OversampledOptions,
) -> dict[str, np.ndarray]:
    """Returns `synthetic`, float32 [C, V, D], and `lacking`, float32 [C].

    `lacking` is how many clips fewer than the most frequent class each has, over all clips. A class
    without a clip lacks none, and its vectors are zeros.
    """
    counts = np.bincount(labels, minlength=num_classes)
    lacking = np.where(counts > 0, counts.max() - counts, 0)
    wanted = {int(label): options.vectors for label in np.flatnonzero(lacking)}
    made = oversampling.synthetic(x, labels, wanted, options.sampler, 0, options.neighbours)
    synthetic = np.zeros([num_classes, options.vectors, x.shape[1]], np.float32)
    for label, vectors in made.items():
        synthetic[label] = vectors
    return {"synthetic": synthetic, "lacking": (lacking / len(labels)).astype(np.float32)}


def drawn(
    key: Key[Array, ""],
    synthetic: Float[Array, "classes vectors features"],
    lacking: Float[Array, " classes"],
    number: int,
) -> tuple[Float[Array, "{number} features"], Int[Array, " {number}"]]:
    """Returns so many synthetic vectors and their labels; classes by what they lack."""
    class_key, vector_key = jax.random.split(key)
    label = jax.random.categorical(class_key, jnp.log(jnp.maximum(lacking, 1e-30)), shape=(number,))
    which = jax.random.randint(vector_key, (number,), 0, synthetic.shape[1])
    return synthetic[label, which], label
