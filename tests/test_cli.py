"""The command line: quick help, exit statuses, one-line refusals, sweeps."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffi2i import __version__, cli
from tests.conftest import SMALL


def diffi2i(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DIFFI2I_OFFLINE": "1"}
    command = [sys.executable, "-m", "diffi2i", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from diffi2i.cli import main; main(['--help']);"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'lightning', 'hydra', 'numpy'}))"
    )
    start = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert time.monotonic() - start < 2
    assert "usage: diffi2i <command>" in answer
    assert answer.splitlines()[-1] == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "unknown command 'fly': choose one of train, eval, predict, bench, data, table"),
        (["train", "model.cpen.chanels=1"], "did you mean 'model.cpen.channels'"),
        (["eval", "run=nowhere"], "no config.yaml"),
        (["predict", "run=nowhere", "input=a", "output=b"], "no config.yaml"),
        (["table"], "table needs run directories"),
        (["table", "nowhere"], "neither a run directory nor one of table1"),
        (["table", "."], "no finished run"),
        (["bench", "-m", "model=tiny,base"], "does not sweep"),
    ],
)
def test_a_refusal_is_one_line_on_stderr_with_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    streams = capsys.readouterr()
    assert caught.value.code == 2
    assert words in streams.err
    assert streams.err.count("\n") == 1
    assert streams.out == ""


def test_ctrl_c_ends_with_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as caught:
        cli.main(["train"])
    assert caught.value.code == 130
    assert "give the same command again" in capsys.readouterr().err


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "run", full)
    with pytest.raises(SystemExit) as caught:
        cli.main(["train"])
    assert caught.value.code == 1
    assert "the disk is full" in capsys.readouterr().err


def test_bench_prints_the_size_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["bench", "task=sisr", "model=tiny", "size=32", "repeats=1", "trainer=cpu"])
    printed = capsys.readouterr().out
    assert "input 8x8, output 32x32" in printed
    assert "M parameters" in printed
    assert "multiply-accumulates" in printed


def test_cfg_job_prints_the_whole_configuration() -> None:
    answer = diffi2i("train", "--cfg", "job", "seed=7")
    assert answer.returncode == 0
    assert "seed: 7" in answer.stdout
    assert "prior_loss: l1" in answer.stdout


def test_a_sweep_runs_one_process_per_run(images: Path, tmp_path: Path) -> None:
    settings = [*SMALL, f"root={images}", "train.steps=2"]
    answer = diffi2i("train", "-m", *settings, "seed=0,1", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    records = [json.loads(file.read_text()) for file in tmp_path.glob("outputs/sisr/*/result.json")]
    assert sorted(record["seed"] for record in records) == [0, 1]


def test_a_sweep_with_a_bad_value_starts_nothing(images: Path, tmp_path: Path) -> None:
    answer = diffi2i("train", "-m", *SMALL, f"root={images}", "method.prior=truth,nothing", cwd=tmp_path)
    assert answer.returncode == 2
    assert "method.prior=nothing: choose one of" in answer.stderr
    assert list(tmp_path.iterdir()) == []
