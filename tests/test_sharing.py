"""Shared models: a folder that holds nothing private, and a small server in the place of the Hub."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from omegaconf import OmegaConf
from runs import ROOT
from safetensors.numpy import load

import vmp
from vmp.commands.push import main as push
from vmp.errors import RunError, UserError, WeightsError
from vmp.runs.sharing import FILES, _without_paths, write_shared

COMMIT = "c0ffee" + "0" * 34


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "model"
    write_shared(finished, folder, name="me/model")
    return folder


def test_a_shared_model_predicts_what_the_run_does(shared, finished, data):
    videos = [data / "val" / f"{i:03}.mp4" for i in range(3)]
    mine, theirs = vmp.load(finished, device="cpu"), vmp.load(shared, device="cpu")
    assert theirs.classes == mine.classes
    assert theirs.config.vmp == mine.config.vmp
    for a, b in zip(mine.predict(videos), theirs.predict(videos), strict=True):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)
    assert "shared model: top-1" in theirs.notes[0]


def test_every_file_may_be_read_by_those_whom_the_umask_allows(shared, finished):
    for folder in (shared, finished):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert any(path.name == "model.safetensors" for path in files)
        assert len({path.stat().st_mode for path in files}) == 1


def test_nothing_private_is_in_it(shared, finished, data):
    assert {path.name for path in shared.iterdir()} == set(FILES)
    everything = b"".join(path.read_bytes() for path in shared.iterdir())
    for secret in (str(data), str(finished), str(finished.parents[3]), "00.mp4", "val/0"):
        assert secret.encode() not in everything, secret
    card = (shared / "README.md").read_text()
    result = json.loads((finished / "result.json").read_text())
    assert f"| tiny | learned | manifest | {result['top1']:.2f} | – |" in card
    assert f"slope {result['scalars']['slope']:.4f}" in card
    assert 'vmp.load("hf:me/model")' in card
    assert "- start: random weights" in card


def test_files_of_something_else_are_not_replaced(finished, tmp_path):
    """Such as those of a run, or the README.md of a project."""
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run/config.yaml").read_bytes()
    with pytest.raises(RunError, match=r"has a config\.yaml of something else"):
        write_shared(finished, tmp_path / "run", name="run")
    assert (tmp_path / "run/config.yaml").read_bytes() == before
    for _ in range(2):  # its own are
        write_shared(finished, tmp_path / "new", name="new")
    assert 'vmp.load("new")' in (tmp_path / "new/README.md").read_text()
    (tmp_path / "run/result.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        write_shared(tmp_path / "run", tmp_path / "other", name="other")


def test_paths_in_the_options_of_own_parts_stay():
    raw = {"backbone": {"options": {"file": "/home/me/w.pt", "more": {"files": ["~/a/b.txt", "c/d"]}}}}
    told = {"file": "w.pt", "more": {"files": ["b.txt", "c/d"]}}
    assert _without_paths(raw) == {"backbone": {"options": told}}


def test_the_account_of_a_tracker_stays(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    config = OmegaConf.load(tmp_path / "run/config.yaml")
    config.logger = OmegaConf.load(ROOT / "conf/logger/wandb.yaml")
    config.logger.entity = "my-laboratory"
    OmegaConf.save(config, tmp_path / "run/config.yaml")
    write_shared(tmp_path / "run", tmp_path / "model", name="me/model")
    assert "my-laboratory" not in "".join(
        f.read_text(errors="replace") for f in (tmp_path / "model").iterdir()
    )
    assert vmp.load(tmp_path / "model", device="cpu").config.logger.kind == "files"


def test_damaged_and_foreign_files_are_errors(shared, tmp_path):
    shutil.copytree(shared, tmp_path / "m")
    (tmp_path / "m/classes.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(RunError, match=r"model\.safetensors: does not fit the model of config\.yaml"):
        vmp.load(tmp_path / "m")
    (tmp_path / "m/model.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match=r"model\.safetensors: cannot be read"):
        vmp.load(tmp_path / "m")
    with pytest.raises(UserError, match="is a shared model, which has one"):
        vmp.load(shared, checkpoint="best")
    with pytest.raises(RunError, match="a shared model, which has no checkpoints; name the run"):
        write_shared(shared, tmp_path / "again", name="again")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["repo=me/x"], "name a run and where it goes"),
        (["run=a", "repo=me/x", "to=b"], "name a run and where it goes"),
        (["run=a", "repo=x"], "must be OWNER/NAME"),
        (["run=a", "too=b"], "too: no such key"),
        (["run=nowhere", "to=b"], "nowhere"),
    ],
)
def test_wrong_words_are_errors(words, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["push", *words])
    with pytest.raises(UserError, match=said):
        push()


class Hub(BaseHTTPRequestHandler):
    """The few addresses of the Hub that its library asks for small files."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def reply(self, value=None, *, content=b"", headers=(), code=200):
        content = json.dumps(value).encode() if value is not None else content
        self.send_response(code)
        for key, one in headers:
            self.send_header(key, one)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.path)
        if "/tree/" in self.path:
            there = {**self.files, "train/secret.mp4": b"not to be fetched"}
            tree = [
                {"type": "file", "path": name, "size": len(file), "oid": hashlib.sha1(file).hexdigest()}
                for name, file in there.items()
            ]
            return self.reply(tree)
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in (*self.files, "train/secret.mp4")]
            return self.reply({"id": "me/model", "sha": COMMIT, "siblings": siblings, "tags": []})
        content = self.files.get(self.path.rpartition("/")[2])
        if content is None:
            return self.reply({"error": "no such file"}, code=404)
        etag = ("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        return self.reply(content=content, headers=[etag, ("X-Repo-Commit", COMMIT)])

    def do_POST(self):
        self.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/repos/create"):
            return self.reply({"url": f"http://{self.headers['Host']}/me/model", "name": "me/model"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.reply(
                {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            )
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.reply(
                {"commitUrl": f"http://{self.headers['Host']}/me/model/commit/{COMMIT}", "commitOid": COMMIT}
            )
        return self.reply({}, code=200)

    def log_message(self, *_):
        pass


def test_without_the_library_of_the_hub_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"hf:me/mine: .* pip install huggingface_hub"):
        vmp.load("hf:me/mine")


@pytest.mark.slow
def test_a_model_goes_to_the_hub_and_comes_back(finished, shared, data, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_TOKEN": "hf_test",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=250
        )

    try:
        done = command("-m", "vmp", "push", f"run={finished}", "repo=me/model", "--private")
        assert done.returncode == 0, done.stderr[-3000:]
        assert set(Hub.files) == set(FILES)
        uploaded, ours = (
            load(Hub.files["model.safetensors"]),
            load((shared / "model.safetensors").read_bytes()),
        )
        assert {name: value.tobytes() for name, value in uploaded.items()} == {
            name: value.tobytes() for name, value in ours.items()
        }
        video = data / "val/000.mp4"
        code = f"m = vmp.load('hf:me/model', device='cpu'); print(m.predict({str(video)!r}).probabilities.tolist())"
        done = command("-c", f"import vmp; {code}")
        assert done.returncode == 0, done.stderr[-3000:]
        assert not [path for path in Hub.asked if "secret" in path]
        expected = vmp.load(finished, device="cpu").predict(video).probabilities
        np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, atol=1e-6)
        server.shutdown()
        server.server_close()
        gone = command("-m", "vmp", "push", f"run={finished}", "repo=me/model")
        assert gone.returncode == 2
        assert "error: me/model: cannot be uploaded" in gone.stderr
        assert "Traceback" not in gone.stderr
    finally:
        server.shutdown()
