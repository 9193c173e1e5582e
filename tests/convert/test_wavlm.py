"""WavLM against transformers' own models, randomly initialized: nothing is downloaded."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from networks import quick

from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.layers.relative import buckets_of
from sacjax.models import Wav2Vec2

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else a local folder is looked up in the hub as well
torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=(16,) * 7,
    num_conv_pos_embedding_groups=4,
    num_conv_pos_embeddings=16,
    num_buckets=12,
    max_bucket_distance=9,
)
LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
NAMES = dict(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, label2id=dict(a=0, b=1, c=2))
HEAD = NAMES | dict(classifier_proj_size=24)
CASES = {
    "base": ("WavLMModel", SMALL),
    "large": ("WavLMModel", SMALL | LARGE),
    "classifier": ("WavLMForSequenceClassification", SMALL | HEAD),
    "weighted": (
        "WavLMForSequenceClassification",
        SMALL | LARGE | HEAD | dict(use_weighted_layer_sum=True),
    ),
}
LENGTHS = (9000, 6000, 3000)


def make(name, **options):
    """Returns a random model of transformers whose norms, biases and gates are not trivial."""
    kind, own = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.WavLMConfig(**(own | options))).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if any(word in key for word in ("norm", "bias", "layer_weights", "rel_")):
                value.add_(0.3 * torch.randn_like(value))
    return model


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory):
    """A model of transformers, the folder that it was saved to, and ours from there."""
    model, path = make(request.param), tmp_path_factory.mktemp("wavlm")
    model.save_pretrained(path)
    # Their group norm lets padding in.
    changes = dict(norm_padding="reference", normalize_input=False)
    return model, path, huggingface.load_huggingface(path, **changes)


def sound():
    x = 0.3 * np.random.default_rng(0).normal(size=(3, max(LENGTHS))).astype(np.float32)
    mask = np.arange(max(LENGTHS)) < np.asarray(LENGTHS)[:, None]
    return x * mask, mask


def test_every_hidden_state_and_logit_agrees_in_a_padded_batch(pair):
    model, _, loaded = pair
    x, mask = sound()
    with torch.no_grad():
        wanted = model(
            torch.tensor(x),
            attention_mask=torch.tensor(mask.astype(int)),
            output_hidden_states=True,
        )

    def run(model, x, lengths):
        encoder = model if loaded.kind == "bare" else model.encoder
        return encoder(x, lengths, hidden_states=True), (
            None if loaded.kind == "bare" else model(x, lengths)
        )

    ours, logits = quick(loaded.model, run)(jnp.asarray(x), jnp.asarray(LENGTHS))
    assert len(ours.hidden_states) == len(wanted.hidden_states) == 4
    for state, reference in zip(ours.hidden_states, wanted.hidden_states, strict=True):
        for row, count in enumerate(np.asarray(ours.lengths)):
            np.testing.assert_allclose(state[row, :count], reference[row, :count], atol=1e-4)
    if logits is not None:
        np.testing.assert_allclose(logits, wanted.logits, atol=1e-4)
        assert loaded.class_names == ("a", "b", "c")


def test_a_round_trip_is_bit_exact_and_loads_without_a_missing_or_unexpected_key(pair, tmp_path):
    model, _, loaded = pair
    huggingface.save_huggingface(loaded.model, tmp_path, class_names=loaded.class_names)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    for key in SMALL:
        assert getattr(again.config, key) in (getattr(model.config, key), [16] * 7), key
    if loaded.kind == "classification":
        assert again.config.id2label == model.config.id2label


@pytest.mark.parametrize(("buckets", "furthest"), [(320, 800), (12, 9), (32, 128)])
def test_buckets_are_theirs(buckets, furthest):
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    theirs = WavLMAttention(8, 2, num_buckets=buckets, max_distance=furthest)
    wanted = theirs._relative_positions_bucket(-torch.arange(3000)).numpy()
    found = buckets_of(furthest + 1, buckets // 2, furthest)
    np.testing.assert_array_equal(found, wanted[: furthest + 1])
    assert set(wanted[furthest:]) == {found[-1]}  # so a table up to there is enough


def test_keys_that_a_config_does_not_have_are_those_of_transformers(tmp_path):
    config = transformers.WavLMConfig()
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="wavlm")))
    bare, options = huggingface.read_config(tmp_path), huggingface.encoder_options(tmp_path)
    assert {key: getattr(config, key) for key in bare} == bare
    assert (options["relative_buckets"], options["relative_distance"]) == (320, 800)


def test_what_transformers_has_no_counterpart_of_is_one_line(tmp_path):
    from flax import nnx

    from sacjax.objectives.wav2vec2 import Pretraining, Wav2Vec2Options

    small = dict(size="tiny", positional_kernel=16, positional_groups=4, relative_buckets=8)
    encoder = Wav2Vec2(**small, rngs=nnx.Rngs(0))
    model = Pretraining(encoder, Wav2Vec2Options(), nnx.Rngs(0))
    with pytest.raises(UserError, match="transformers has no WavLMForPreTraining"):
        huggingface.save_huggingface(model, tmp_path)
