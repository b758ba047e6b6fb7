"""The demo's weights: from the files of a release, or trained in their place."""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import diffi2i
from diffi2i import cli
from diffi2i.commands import hub
from diffi2i.config.schema import TrainerConfig
from diffi2i.run.directory import load_method
from diffi2i.run.release import LARGEST, SUMS, demo_row
from diffi2i.run.rows import row_files
from tests.refusals import command_refusal

CPU = TrainerConfig(accelerator="cpu", precision="fp32", threads=1)


def packed(folder: Path, files: dict[str, bytes], name: str = "demo-sisr.zip", sums: str | None = None) -> Path:
    """A release of one archive."""
    folder.mkdir(exist_ok=True)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    (folder / name).write_bytes(stream.getvalue())
    digest = hashlib.sha256(stream.getvalue()).hexdigest()
    (folder / SUMS).write_text(sums or f"{digest}  {name}\n")
    return folder


@pytest.fixture(scope="module")
def exported(stage1_once: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("release") / "export"
    cli.main(["export", f"run={stage1_once}", f"output={folder}"])
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "files").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "files"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_an_archive_of_a_release_is_a_run(
    exported: dict[str, bytes], address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = packed(tmp_path / "files", exported)
    for release, output in ((address, "fetched"), (str(files), "copied")):
        cli.main(["pull", "demo/sisr", f"release={release}", f"output={tmp_path / output}"])
        assert {file.name: file.read_bytes() for file in (tmp_path / output).iterdir()} == exported
    assert load_method(tmp_path / "fetched").config.task.name == "sisr"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    capsys.readouterr()
    again = ["pull", "demo/sisr", f"release={address}", f"output={tmp_path / 'fetched'}"]
    assert "is there already" in command_refusal(again, capsys)


@pytest.mark.parametrize(
    ("files", "sums", "said"),
    [
        ({"config.yaml": b"x", "../../evil.yaml": b"x"}, None, "holds ../../evil.yaml, which no export has"),
        ({"config.yaml": b"x", "a/b.safetensors": b"x"}, None, "holds folders"),
        ({"config.yaml": b"x", "code.py": b"x"}, None, "holds code.py, which no export has"),
        ({"weights.safetensors": b"x"}, None, "holds no run of DiffI2I"),
        ({"weights.safetensors": bytes(LARGEST + 1)}, None, "is more than 256 MiB unpacked"),
        ({"config.yaml": b"x"}, "0" * 64 + "  demo-sisr.zip\n", "invalid hash value"),
        ({"config.yaml": b"x"}, "0" * 64 + "  demo-depth.zip\n", "has no demo-sisr.zip"),
        ({"config.yaml": b"x"}, "<html>\n", "train it here"),
    ],
)
def test_an_archive_of_something_else_is_refused_whole(
    files: dict[str, bytes], sums: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release, output = packed(tmp_path / "files", files, sums=sums), tmp_path / "below" / "out"
    line = command_refusal(["pull", "demo/sisr", f"release={release}", f"output={output}"], capsys)
    assert said in line
    assert "diffi2i pull demo/sisr train=true" in line
    assert [*tmp_path.rglob("*evil*")] == [*output.parent.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo/sisr"], "name a release (release=<folder or address>), or train it here"),
        (["demo/siser"], "no weights of the demo 'siser': did you mean sisr?"),
        (["demo/sisr", "release=http://127.0.0.1:9"], "train it here, in some minutes on two cores: diffi2i pull"),
        (["demo/sisr", "release=a", "train=true"], "leave out release"),
        (["me/model", "train=true"], "leave out train and release"),
    ],
)
def test_what_cannot_be_pulled_says_how_it_can(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in command_refusal(["pull", *words], capsys)


@pytest.mark.long
def test_what_no_release_has_is_trained_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "BUDGET", "smoke")
    cli.main(["pull", "demo/segmentation", "train=true"])
    card = (tmp_path / "demo-segmentation" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert re.search(r"It has \d\.\d million parameters, trained for 8 steps in all\.", card)
    assert diffi2i.load(tmp_path / "demo-segmentation", trainer=CPU).task.name == "segmentation"


def test_each_task_has_its_weights() -> None:
    tasks = {file.stem for file in Path("conf/task").glob("*.yaml")}
    assert {*row_files("demo")} == tasks
    assert all(demo_row(f"demo/{task}") for task in tasks)
    assert demo_row("me/model") is None
