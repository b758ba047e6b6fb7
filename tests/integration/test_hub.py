"""The Hugging Face hub, by a small one of our own: what is sent comes back, and each refusal is a line."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

import diffi2i
from diffi2i import cli
from diffi2i.commands import train
from diffi2i.config.schema import TrainerConfig
from diffi2i.errors import UserError
from diffi2i.run import hub
from tests.conftest import Make
from tests.refusals import command_refusal

SHA = "a" * 40
CPU = TrainerConfig(accelerator="cpu", precision="fp32", threads=1)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as sending and fetching a folder of small files takes."""

    repos: dict[str, dict[str, bytes]]
    closed: set[str]

    def answer(self, content: Any = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self) -> None:
        self.answer(status=404, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if name in self.closed:
                return self.answer({"error": "no"}, 403)
            self.repos.setdefault(name, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self.answer({"warnings": [], "errors": []})
        match = re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/(preupload|commit)/main", self.path.partition("?")[0])
        if match is None or match[1] not in self.repos:
            return self.missing()
        if match[2] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repos[match[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer({"commitUrl": f"http://{self.headers['Host']}/{match[1]}/commit/{SHA}", "commitOid": SHA})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(/revision/([\w-]+)|/tree/([\w-]+))?", path):
            if match[1] not in self.repos:
                return self.missing()
            if (match[3] or match[4] or "main") not in ("main", SHA):
                return self.answer(status=404, X_Error_Code="RevisionNotFound")
            files = self.repos[match[1]]
            if match[4]:
                return self.answer(
                    [{"type": "file", "path": name, "size": len(files[name]), "oid": "0"} for name in files]
                )
            return self.answer({"id": match[1], "sha": SHA, "siblings": [{"rfilename": name} for name in files]})
        match = re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/[\w-]+/(.+)", path)
        if match is None or match[1] not in self.repos or match[2] not in self.repos[match[1]]:
            return self.missing()
        content = self.repos[match[1]][match[2]]
        tag = hashlib.sha256(content).hexdigest()
        return self.answer(content, ETag=f'"{tag}"', X_Repo_Commit=SHA, Accept_Ranges="bytes")

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def small_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    Hub.repos, Hub.closed = {}, {"else/model"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield Hub
    server.shutdown()


def test_what_is_sent_comes_back(
    make: Make, tmp_path: Path, small_hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train.train(make("plain", "method=regressor"))
    assert "is no export" in command_refusal(["push", f"run={run}", "repo=me/model"], capsys)
    cli.main(["export", f"run={run}", f"output={tmp_path / 'shared'}"])
    (tmp_path / "shared" / "private.txt").write_text("mine")
    cli.main(["push", f"run={tmp_path / 'shared'}", "repo=me/model"])
    assert "can write run=hf:me/model" in capsys.readouterr().out
    assert set(small_hub.repos["me/model"]) == {"README.md", "config.yaml", "result.json", "weights.safetensors"}
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    ours = diffi2i.load(run, trainer=CPU)(pixels)
    assert (diffi2i.load("hf:me/model", trainer=CPU)(pixels) == ours).all()
    cli.main(["pull", "repo=me/model", f"output={tmp_path / 'pulled'}"])
    assert (diffi2i.load(tmp_path / "pulled", trainer=CPU)(pixels) == ours).all()
    capsys.readouterr()  # how far it had come
    assert "is there already" in command_refusal(["pull", "repo=me/model", f"output={tmp_path / 'pulled'}"], capsys)


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("me/nothing", "hf:me/nothing is not there, or not for you"),
        ("me/empty", "hf:me/empty holds no run of DiffI2I"),
        ("me/empty@other", "hf:me/empty@other has no such revision"),
        ("nothing", "'nothing' is no name on the hub: write <user>/<name>"),
        ("../etc", "'../etc' is no name on the hub"),
    ],
)
def test_what_is_not_there_is_named(small_hub: type[Hub], repo: str, said: str) -> None:
    small_hub.repos["me/empty"] = {"README.md": b"x"}
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        hub.located(f"hf:{repo}")
    assert "\n" not in str(caught.value)


def test_a_hub_that_refuses_or_does_not_answer_is_named(
    make: Make,
    tmp_path: Path,
    small_hub: type[Hub],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("config.yaml", "README.md"):
        (tmp_path / name).write_text("---\n---\n")
    assert "is not yours to write to" in command_refusal(["push", f"run={tmp_path}", "repo=else/model"], capsys)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        hub.located("hf:me/model")
    assert "cannot be reached" in command_refusal(["push", f"run={tmp_path}", "repo=me/model"], capsys)
