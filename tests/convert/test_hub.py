"""Downloads from a hub, which is a server on this machine; nothing leaves it."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from processes import ROOT

from sacjax.convert import hub
from sacjax.errors import UserError

pytest.importorskip("huggingface_hub", reason="needs the extra `hub`")
torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

OLD, NEW = "a" * 40, "b" * 40  # commits
SMALL = dict(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    conv_dim=(8,) * 7,
    num_conv_pos_embedding_groups=4,
    num_labels=2,
    id2label={0: "off", 1: "on"},
)


class Hub(ThreadingHTTPServer):
    """Answers what `snapshot_download` asks; `asked` are the paths of files that it gave."""

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories, self.asked = repositories, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    """Of one request."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        name, rest = "/".join(parts[:2]), parts[2:]
        commits = self.server.repositories.get(name)
        if commits is None:
            return self.send(404, {"X-Error-Code": "RepoNotFound"})
        kind, revision, *path = rest or ("revision", "main")
        commit = {"main": NEW, "v1": OLD}.get(revision, revision)
        if commit not in commits:
            return self.send(404, {"X-Error-Code": "RevisionNotFound"})
        files = commits[commit]
        if kind == "revision":
            return self.send(200, {}, json.dumps(dict(id=name, sha=commit, siblings=[])).encode())
        if kind == "tree":
            listed = [
                dict(type="file", path=file, size=len(data), oid=hashlib.sha1(data).hexdigest())
                for file, data in files.items()
            ]
            return self.send(200, {}, json.dumps(listed).encode())
        data = files["/".join(path)]
        if body:
            self.server.asked.append(f"{name}/{'/'.join(path)}")
        told = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
        return self.send(200, told, data, body)

    def send(self, status, headers, data=b"{}", body=True):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def folder(path, seed):
    """Returns {file: its bytes} of a random classifier that transformers wrote."""
    torch.manual_seed(seed)
    config = transformers.Wav2Vec2Config(**SMALL)
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(path)
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    return files | {"pytorch_model.bin": b"\x80\x04", "README.md": b"# A model"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    old, new = (folder(tmp_path_factory.mktemp("saved"), seed) for seed in (0, 1))
    pickled = {key: old[key] for key in ("config.json", "pytorch_model.bin")}
    foreign = old | {"config.json": b'{"model_type": "bert"}'}
    made = Hub(
        {
            "org/model": {OLD: old, NEW: new},
            "org/pickled": {NEW: pickled},
            "org/foreign": {NEW: foreign},
        }
    )
    yield made
    made.shutdown()
    made.server_close()


def python(code, url, cache, **environment):
    """Runs code in a process of its own, as the hub's place is read when the library is imported.

    Returns (its exit code, stdout, stderr).
    """
    env = os.environ | dict(HF_ENDPOINT=url, HF_HOME=str(cache), PYTHONPATH=str(ROOT)) | environment
    env["HF_HUB_OFFLINE"] = environment.get("HF_HUB_OFFLINE", "0")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


LOAD = """
from pathlib import Path
import numpy as np
import sacjax
from sacjax import config, init_from
from sacjax.convert import workdir
from sacjax.errors import UserError

for where in ("hf:org/model@v1", "hf:org/model"):
    model = sacjax.load(where)
    print(*model.labels, np.asarray(model.module.head.kernel[...]).ravel()[:4].tolist())
c = config.default(finetune=config.stage())
c.finetune.model.name, c.finetune.init_from = "wav2vec2", "hf:org/model@v1"
c = init_from.resolve(c)
found = init_from.pretrained_of(c.finetune, c, Path()).params["encoder"]["mask_embedding"]
print(c.finetune.model.encoder.width, np.asarray(found).tolist())
print(workdir.to_workdir("org/model@v1", "DIR"))
for where in ("hf:org/nowhere", "hf:org/model@v9", "hf:org/pickled", "hf:org/foreign", "hf:a/b/c"):
    try:
        sacjax.load(where)
    except UserError as error:
        print(error)
"""
CACHED = """
from sacjax.convert import hub
from sacjax.errors import UserError

for name in ("org/model@v1", "org/model", "org/nowhere"):
    try:
        folder = hub.weights(hub.repository(name))
        print(folder.name, *sorted(path.name for path in folder.iterdir()))
    except UserError as error:
        print(error)
"""
FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


def tensor(server, commit, name):
    from safetensors.numpy import load

    return load(server.repositories["org/model"][commit]["model.safetensors"])[name]


def test_a_model_is_loaded_by_name_and_revision_and_then_without_the_hub(server, tmp_path):
    cache = tmp_path / "cache"
    code, out, err = python(LOAD.replace("DIR", str(tmp_path / "run")), server.url, cache)
    assert code == 0, err
    old, new, start, stage, *told = out.splitlines()
    for line, commit in ((old, OLD), (new, NEW)):
        found = json.loads(line.removeprefix("off on "))
        wanted = tensor(server, commit, "classifier.weight").T.ravel()[:4]
        np.testing.assert_array_equal(np.float32(found), wanted)
    width, mask = start.split(" ", 1)
    wanted = tensor(server, OLD, "wav2vec2.masked_spec_embed")
    assert width == "16" and np.array_equal(np.float32(json.loads(mask)), wanted)
    assert stage == "finetune" and (tmp_path / "run" / "config.json").is_file()
    words = (
        "hf:org/nowhere: neither a folder here nor a repository of the hub",
        "hf:org/model@v9: the repository has no such revision",
        "hf:org/pickled: there are no safetensors in it; pickled weights are not read",
        "org/foreign/config.json: model_type is 'bert'; known are",
        "hf:a/b/c: there is no config.json in it",
    )
    assert len(told) == len(words)
    for line, start in zip(told, words, strict=True):
        assert line.startswith(start), line
    assert f"hf:org/model is commit {NEW}; hf:org/model@{NEW} stays at it" in err
    # Nothing else is fetched, what two revisions share once, and no weights of a foreign model.
    given = [path.split("/")[2] for path in server.asked if path.startswith("org/model/")]
    assert sorted(given) == ["config.json", *[FILES[1]] * 2, "preprocessor_config.json"]
    assert "org/foreign/model.safetensors" not in server.asked
    assert not any(path.endswith((".bin", ".md")) for path in server.asked)

    before = len(server.asked)
    whys = "HF_HUB_OFFLINE is set", "the hub cannot be reached"
    urls = (server.url, "1"), ("http://127.0.0.1:9", "0")  # nobody answers there
    for why, (url, offline) in zip(whys, urls, strict=True):
        code, out, err = python(CACHED, url, cache, HF_HUB_OFFLINE=offline)
        *found, missing = out.splitlines()
        assert found == [" ".join((commit, *FILES)) for commit in (OLD, NEW)], err
        assert missing == f"hf:org/nowhere: not, or not whole, in the cache, and {why}"
    assert len(server.asked) == before


def test_a_repository_is_told_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.repository("org/model") == ("org/model", None)
    assert hub.repository("org/model@refs/pr/1") == ("org/model", "refs/pr/1")
    assert str(hub.repository("org/model.v2@v1")) == "hf:org/model.v2@v1"
    for text in ("model", "/org/model", "../model", "a/b/c", "org/model@", "org/"):
        assert hub.repository(text) is None, text
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert hub.repository("org/model") is None


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf:org/x: .* pip install 'sacjax\[hub\]'"):
        hub.weights(hub.Repository("org/x", None))
