"""Model cards, as `huggingface_hub` and transformers read them."""

import os

import numpy as np
import pytest
from flax import nnx

from sacjax.convert import huggingface
from sacjax.models import ENCODERS, Classifier, Wav2Vec2

os.environ.setdefault("HF_HUB_OFFLINE", "1")
hub = pytest.importorskip("huggingface_hub", reason="needs the extra `hub`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

SMALL = {
    "whisper": dict(width=16, depth=1, heads=2, mlp_width=16, max_frames=20),
    "hts_at": dict(width=8, depths=(1, 1), heads=(1, 1), window=4, picture=64, max_frames=33),
}
LABELS = ("dog", 'a "loud" one', "`tick`")


def encoder():
    return Wav2Vec2(size="tiny", positional_kernel=16, positional_groups=4, rngs=nnx.Rngs(0))


def code(card):
    return card.content.split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("several", [False, True])
def test_the_card_of_a_classifier_tells_its_labels_and_its_code_runs(several, tmp_path):
    model = Classifier(encoder(), num_classes=3, rngs=nnx.Rngs(0))
    huggingface.save_huggingface(model, tmp_path, class_names=LABELS, multi_label=several)
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "audio-classification"
    assert card.data.library_name == "transformers" and "sacjax" in card.data.tags
    assert "of 3 labels" in card.text and "16,000 Hz" in card.text
    assert ("several of which" in card.text) == several
    assert 'Labels: `dog`, `a "loud" one`, ``` `tick` ```.' in card.text
    if several:
        return
    names = dict(FOLDER=str(tmp_path))
    source = code(card).rsplit("\n", 2)[0]
    exec(source, names)
    sound = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    found = names["classify"](dict(raw=sound, sampling_rate=16000))
    assert {row["label"] for row in found} == set(LABELS)


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper", "hts_at"])
def test_the_card_of_an_encoder_loads_it(kind, tmp_path):
    model = encoder() if kind == "wav2vec2" else ENCODERS[kind](**SMALL[kind], rngs=nnx.Rngs(0))
    huggingface.save_huggingface(model, tmp_path)
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag is None and "Labels" not in card.text
    names = dict(FOLDER=str(tmp_path))
    exec(code(card), names)
    assert names["model"].config.hidden_size == model.features
