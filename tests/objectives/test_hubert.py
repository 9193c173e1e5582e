"""HuBERT: its loss against fairseq's written out in PyTorch, clusters, two iterations, export."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.cluster import KMeans
from tiny_stages import SAMPLES, batch_of, stage_of, waves
from toy_tokens import registered

from sacjax import config as config_lib
from sacjax import objectives, stages
from sacjax.context import Context
from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.objectives.base import Frozen
from sacjax.objectives.hubert import HubertOptions, kmeans, nearest
from sacjax.train import sharding
from sacjax.train.trained import write_trained
from sacjax.train.trainer import batch_shapes, make_trainer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
OPTIONS = dict(
    targets="log_mel",
    clusters=5,
    code_dim=6,
    mask_span=3,
    mask_probability=0.2,
    kmeans_tokens=400,
    kmeans_starts=1,
)


@pytest.fixture(scope="module", autouse=True)
def toy():
    with registered():
        yield


def built(stage):
    """Returns (objective, model) with centroids of noise."""
    objective = objectives.build(stage)
    values = np.random.default_rng(0).normal(size=(5, objective.sound.size)).astype(np.float32)
    return objective, objective.build(nnx.Rngs(0), {"centroids": jnp.asarray(values)})


# Clusters


def test_kmeans_finds_clusters_and_tokens_go_to_the_nearest():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (5, 3))
    x = np.concatenate([c + rng.normal(0, 0.1, (40, 3)) for c in centres]).astype(np.float32)
    found = kmeans(x, HubertOptions(clusters=5, kmeans_starts=3))
    order = np.argsort(centres[:, 0]), np.argsort(found[:, 0])
    np.testing.assert_allclose(found[order[1]], centres[order[0]], atol=0.1)
    theirs = KMeans(5, n_init=1).fit(x)
    theirs.cluster_centers_ = found
    made = nearest(jnp.asarray(x)[None], jnp.asarray(found))[0]
    np.testing.assert_array_equal(made, theirs.predict(x))
    with pytest.raises(UserError, match="clusters is 5, of 4 tokens"):
        kmeans(x[:4], HubertOptions(clusters=5))


def test_what_is_clustered_is_valid_tokens_of_training_clips():
    objective = objectives.build(stage_of("hubert", options=OPTIONS))
    view = waves([SAMPLES, 900, SAMPLES])
    batch = dict(
        audio=np.asarray(view.inputs),
        length=np.asarray(view.lengths, np.int32),
        label=np.full(3, -1, np.int32),
        mask=np.array([1, 1, 0], np.float32),
        index=np.arange(3, dtype=np.int32),
    )
    x = objective.heard(iter([batch]), None)
    whole = np.asarray(objective.sound(view, 24))
    np.testing.assert_allclose(x, np.concatenate([whole[0], whole[1, :14]]), atol=1e-4)
    made = objective.prepare(lambda: iter([batch]))
    assert made["centroids"].shape == (5, 16) and set(made) == {"centroids"}


def test_files_that_are_no_sound_end_the_run_before_anything_is_clustered(tmp_path):
    """Such as pointers that git-lfs left: there would never be enough tokens."""
    for k in range(10):
        label = tmp_path / "data" / "ab"[k % 2]
        label.mkdir(parents=True, exist_ok=True)
        (label / f"{k}.flac").write_text("version 1")
    stage = stage_of("hubert", options=OPTIONS)
    stage.data.update(source="folder", path=str(tmp_path / "data"))
    config = config_lib.default(pretrain=stage)
    config.tensorboard = False
    with pytest.raises(UserError, match="of 10 files cannot be decoded, more than data.max_bad"):
        stages.run(config, tmp_path / "run")


# The loss


def test_loss_is_fairseqs():
    """Cross-entropy by `compute_nce` of the masked tokens, and ten times the feature penalty."""
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    stage = stage_of("hubert", options=OPTIONS | dict(targets="mfcc"))
    stage.frontend.n_mels = 16
    objective, model = built(stage)
    view, mask = waves([SAMPLES, 900, SAMPLES]), [1, 1, 0]
    loss = objective.loss(model, batch_of(view, mask), Context())

    counts = jnp.asarray([24, 14, 0])
    keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.key(0), k))(jnp.arange(3))
    masked = objective.options.masks(keys, counts, 24)
    tokens = model.encoder.tokens(*view)._replace(lengths=counts)
    frames = np.asarray(model.encoder.context(tokens, mask=masked).frames)[np.asarray(masked)]
    heard = np.asarray(objective.sound(view, 24))[np.asarray(masked)]
    far = np.linalg.norm(heard[:, None] - np.asarray(model.centroids[...]), axis=-1)
    labels = torch.tensor(far.argmin(-1))
    projected = torch.tensor(frames @ np.asarray(model.project.kernel[...]))
    codes = torch.tensor(np.asarray(model.embeddings[...]))
    positives = codes[labels]
    targets = torch.cat([positives[None], codes[:, None].expand(-1, len(labels), -1)])
    logits = torch.cosine_similarity(projected, targets, dim=-1) / 0.1
    logits[1:][(codes[:, None] == positives).all(-1)] = float("-inf")
    wanted = torch.nn.functional.cross_entropy(logits.T, torch.zeros(len(labels), dtype=int))
    features = np.asarray(tokens.features)
    penalty = np.square(np.concatenate([features[0, :24], features[1, :14]])).mean()
    assert loss.count == len(labels)
    np.testing.assert_allclose(loss.total / loss.count, wanted + 10 * penalty, rtol=1e-4)
    assert set(nnx.state(model, Frozen)) == {"centroids"}


@pytest.mark.parametrize(
    ("encoder", "options"),
    [("wav2vec2", dict(head="linear")), ("toy", dict())],
)
def test_any_encoder_of_tokens_will_do(encoder, options):
    """Nothing is compiled: the step's shapes fit."""
    stage = stage_of("hubert", encoder, OPTIONS | options)
    config_lib.check(config_lib.default(pretrain=stage))
    objective = objectives.build(stage)
    trainer = make_trainer(objective, stage, sharding.make_mesh({"data": -1, "fsdp": 1}), 4, 0)
    after = jax.eval_shape(trainer.step, trainer.state_shapes, batch_shapes(stage, 8, 0))
    assert jax.tree.structure(after) == jax.tree.structure(trainer.state_shapes)


def test_the_encoder_loads_in_transformers(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    sizes = dict(positional_kernel=4, conv_norm="group", pre_norm=False, normalize_input=False)
    _, model = built(stage_of("hubert", options=OPTIONS, **sizes))
    huggingface.save_huggingface(model, tmp_path)
    theirs = transformers.HubertModel.from_pretrained(tmp_path).eval()
    view = waves([SAMPLES])
    with torch.no_grad():
        wanted = theirs(torch.tensor(np.asarray(view.inputs))).last_hidden_state
    np.testing.assert_allclose(model.encoder(*view).frames, wanted, atol=1e-4)


# Two iterations


def two_iterations():
    first = stage_of("hubert", options=OPTIONS)
    options = OPTIONS | dict(targets="first", layer=1)
    second = stage_of("hubert", options=options, width=32)
    config = config_lib.default(first=first, second=second)
    config.tensorboard = False
    for stage in (first, second):
        stage.train.update(batch_size=8, steps=1, log_every=1, evaluate_every=10)
        stage.eval.update(best="validation/loss", best_mode="min", batch_size=8, splits=("test",))
    return config


def test_a_second_iteration_tells_clusters_of_the_firsts_layer(tmp_path):
    """The first stage is there as if it had been trained; the second is begun, and trains not."""
    config = stages.resolve(config_lib.check(two_iterations()))
    first = objectives.build(config.first).build(nnx.Rngs(7))
    write_trained(tmp_path, config, "first", (), first)
    mesh = sharding.make_mesh(config.mesh)
    second = stages.Stage.prepare("second", config, mesh, tmp_path, {})
    _, artifacts = second.start()
    model = nnx.eval_shape(lambda: second.objective.build(nnx.Rngs(0)))
    values = nnx.as_pure(nnx.state(first.encoder))
    jax.tree.map(np.testing.assert_array_equal, values, artifacts["network"])
    assert jax.tree.structure(values) == jax.tree.structure(nnx.as_pure(nnx.state(model.network)))
    assert model.encoder.features == 32 and model.centroids.shape == (5, 16)

    # Of the tokens that were clustered, each centroid is the mean of those that are nearest to it.
    tokens = second.objective.heard(second.batches(), artifacts["network"])
    states = first.encoder(*waves([SAMPLES]), hidden_states=True).hidden_states
    made = second.objective.features_of(first.encoder, waves([SAMPLES]), 24)
    np.testing.assert_allclose(made, states[1], atol=1e-5)
    far = np.linalg.norm(tokens[:, None] - artifacts["centroids"], axis=-1)
    assert len(np.unique(far.argmin(1))) == 5 and far.min(1).mean() < 0.9 * far.mean()


def test_what_the_targets_name_is_checked_before_anything_runs():
    config = two_iterations()
    resolved = stages.resolve(config)
    network = resolved.second.objective.options.network
    assert network.name == "wav2vec2" and network.encoder.width == 16
    for changes, message in (
        (dict(targets="second"), "targets is 'second', which does not run before second"),
        (dict(layer=3), "layer is 3: first has 2 layers"),
        (dict(targets="nowhere/run"), "nowhere/run"),
    ):
        with pytest.raises(UserError, match=message):
            bad = two_iterations()
            with bad.second.objective.unlocked():
                bad.second.objective.options.update(changes)
            stages.resolve(config_lib.check(bad))
    config.second.data.sample_rate = 8000
    with pytest.raises(UserError, match="targets=first was trained at 4000 Hz"):
        stages.resolve(config)
    config = two_iterations()
    with config.second.model.encoder.unlocked():
        config.second.model.encoder.conv_strides = (8, 4)
    with pytest.raises(UserError, match="targets=first has 24 tokens a clip, this encoder 4"):
        stages.resolve(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(clusters=1), "objective.options.clusters is 1"),
        (dict(targets="mfcc"), "frontend.n_mels is 8: 13 MFCC need as many"),
        (dict(head="cosin"), "did you mean 'cosine'"),
        (dict(stack=7), "stack is 7: it must divide the 64 samples"),
    ],
)
def test_options_that_are_refused(options, message):
    stage = stage_of("hubert", options=OPTIONS | options)
    with pytest.raises(UserError, match=message):
        config_lib.check(config_lib.default(pretrain=stage))
