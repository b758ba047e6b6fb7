"""The command line: quick help, exit statuses, one-line refusals, sweeps."""

import errno
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffi2i import __version__, cli
from diffi2i.config.commands import CompareConfig, TableConfig
from diffi2i.config.compose import conf_dir, load
from diffi2i.config.schema import Config
from diffi2i.errors import LostProcessError, Note
from diffi2i.run.record import Record
from tests.conftest import SMALL
from tests.processes import diffi2i


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
        (["fly"], "unknown command 'fly': choose one of train, eval, import, predict, app, export, push, pull"),
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train", "model.cpen.chanels=1"], "did you mean 'model.cpen.channels'"),
        (["eval", "run=nowhere"], "nowhere has no result.json: it is no finished run"),
        (["predict", "run=nowhere", "input=a", "output=b"], "no config.yaml"),
        (["data"], "data needs its action: write diffi2i data check"),
        (["data", "check"], "dataset is missing: write diffi2i data check dataset=<name>"),
        (["data", "dataset=photos"], "data needs its action: write diffi2i data check"),
        (["data", "chek", "dataset=photos"], "data needs its action: write diffi2i data check"),
        (["table"], "table needs run directories"),
        (["table", "nowhere"], "neither a run directory nor a table: the tables are table1"),
        (["table", "."], "no finished run"),
        (["table", "a", "seeds=0"], "seeds=0 must be above 0"),
        (["compare", "one"], "compare needs two runs"),
        (["compare", "a", "b", "outptu=c"], "did you mean 'output'"),
        (["report", "output=page"], "write a file name that ends in .html"),
        (["report", "bugdet=demo"], "did you mean 'budget'"),
        (["dashboard", "projekt=mine"], "did you mean 'project'"),
        (["eval", "runs/s1"], "cannot read 'runs/s1': write key=value"),
        (["train", "--dry-run"], "diffi2i train does not know --dry-run"),
        (["train", "--cfg", "job", "foo=1"], "unknown key 'foo'"),
        (["train", "--cfg", "hydra", "foo=1"], "unknown key 'foo'"),
        (["train", "--help", "task=nope"], "deblur, depth, inpainting"),
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


def test_a_note_is_printed_in_one_line() -> None:
    place = ("module.py", 7)
    assert cli.as_printed(Note("a.heic is left out"), Note, *place) == "diffi2i: a.heic is left out\n"
    assert "module.py:7" in cli.as_printed(UserWarning("other"), UserWarning, *place)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: the disk is full: make room"),
        (OSError(errno.EROFS, "Read-only file system", "/r/x"), "/r/x: the disk is read-only: make it writable"),
        (OSError(errno.EFBIG, "File too large"), "File too large: the file is larger than this disk"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/r/y"), "/r/y: the name is too long for this disk"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/r/z"), "/r/z: this has gone while it was needed"),
        (LostProcessError("another process of this run has ended"), "another process of this run has ended"),
    ],
)
def test_what_fails_at_work_is_one_line_with_status_1(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "run", fails)
    with pytest.raises(SystemExit) as caught:
        cli.main(["train"])
    said = capsys.readouterr().err
    assert caught.value.code == 1
    assert said.startswith(f"diffi2i: {words}")
    assert said.count("\n") == 1


def test_a_reader_who_has_enough_and_a_terminal_without_umlauts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diffi2i", "predict", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 141
    (tmp_path / "größe").mkdir()
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "DIFFI2I_OFFLINE": "1"}
    arguments = [sys.executable, "-m", "diffi2i", "table", "table7", "--dry-run", "root=größe", "dataset=folder"]
    answer = subprocess.run(arguments, cwd=tmp_path, env=ascii_only, capture_output=True, text=True, check=False)
    assert "Traceback" not in answer.stderr


@pytest.mark.usefixtures("quick_bench")
def test_bench_prints_the_size_of_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = f"output={tmp_path / 'bench'}"
    cli.main(["bench", "task=sisr", "model=tiny", "size=32", "repeats=1", "trainer=cpu", folder])
    printed = capsys.readouterr().out
    assert "output 32x32, on cpu" in printed
    assert "DI2Iformer: 2.552 M parameters" in printed
    assert "G MACs a call" in printed


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_answers_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    head = [line for line in (conf_dir() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert lines[: len(head)] == [line[2:] for line in head]
    assert any(line.startswith(f"diffi2i {name}") for line in lines), "no example"
    rows = [line.split() for line in lines if line.startswith("  ")]
    for field in fields(cli.COMMANDS[name].config):
        assert any(row[0].partition(".")[0] == field.name for row in rows), field.name
    assert max(map(len, lines)) <= 120
    cli.main([name, "-h"])
    assert capsys.readouterr().out.splitlines() == lines


def test_help_shows_choices_types_and_defaults_under_the_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--help", "task=depth", "method=diffi2i_s2", "budget=smoke"])
    printed = capsys.readouterr().out
    words = {*re.findall(r"\w+", printed)}
    assert {file.stem for file in (conf_dir() / "method").glob("*.yaml")} <= words
    shown = [tuple(line.split(maxsplit=2)) for line in printed.splitlines()]
    assert ("train.steps", "int", "4") in shown
    assert ("method.prior_loss", "str", "l1") in shown
    assert ("task.protocol.sizes", "list[float]", "[1.0]") in shown
    assert "train.val_crop int | None null" in [" ".join(line.split()) for line in printed.splitlines()]


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([])
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed and command.summary in printed for name, command in cli.COMMANDS.items())


MANDATORY = {
    "eval": ["run=a"],
    "predict": ["run=a", "input=b", "output=c"],
    "app": ["run=a"],
    "export": ["run=a", "output=b"],
    "compress": ["run=a"],
    "push": ["run=a", "repo=b/c"],
    "pull": ["repo=a/b", "output=c"],
    "score": ["task=segmentation", "dataset=shapes", "pred=a", "target=b"],
    "data": ["check", "dataset=photos"],
    "table": ["runs/a=b", "runs/[c]", "it's"],
    "compare": ["a", "b"],
    "import": ["a", "b", "run_dir=c"],
}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_cfg_job_prints_the_whole_configuration(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = MANDATORY.get(name, [])
    cli.main([name, *words[:1], "--cfg", "job", *words[1:]])
    printed = capsys.readouterr().out
    assert "${" not in printed
    assert list(yaml.safe_load(printed)) == [field.name for field in fields(cli.COMMANDS[name].config)]


def test_cfg_job_is_what_the_command_gets(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["task=inpainting", "budget=paper", "method=diffi2i_s2", "seed=7"]
    cli.main(["train", *overrides, "-c", "job"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == asdict(load(Config, "train", overrides))
    assert (printed["seed"], printed["train"]["steps"], printed["model"]["name"]) == (7, 1000000, "base")
    assert printed["method"]["prior_loss"] == "l1"


def test_hydras_own_flags_show_the_rest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["diffi2i"])
    cli.main(["train", "--cfg", "hydra", "seed=7"])
    assert "subdir" in capsys.readouterr().out
    cli.main(["train", "--cfg", "job", "--package", "train", "budget=smoke"])
    assert "steps: 4" in capsys.readouterr().out


def got(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> list[Any]:
    """What the command's function is called with, in place of calling it."""
    calls: list[Any] = []
    monkeypatch.setattr(f"diffi2i.commands.{module}.{name}", calls.append)
    return calls


def test_words_and_settings_of_its_own_become_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runs" / "lr=1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    calls = got(monkeypatch, "table", "table")
    cli.main(["table", "runs/lr=1", "runs/[a b]", "it's\\", "budget=smoke"])
    cli.main(["table", "--dry-run", "table7", "all", "roots.celebahq-wide=/a b", "seeds=2", "launcher=joblib"])
    cli.main(["table", "table7", "dataset=celebahq", "root=/a 'b'", "~a", "train.phases=[{step: 5}]", "+new.key=1"])
    names = ["runs/lr=1", "runs/[a b]", "it's\\"]
    roots = {"celebahq-wide": "/a b"}
    overrides = ["dataset=celebahq", "root=/a 'b'", "~a", "train.phases=[{step: 5}]", "+new.key=1"]
    assert calls == [
        TableConfig(names=names, budget="smoke"),
        TableConfig(names=["table7", "all"], dry_run=True, roots=roots, seeds=2, launcher="joblib"),
        TableConfig(names=["table7"], overrides=overrides),
    ]
    compared = got(monkeypatch, "compare", "compare")
    cli.main(["compare", "output=c.json", "a", "b"])
    assert compared == [CompareConfig(runs=["a", "b"], output="c.json")]


def test_the_keys_may_also_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = got(monkeypatch, "table", "table")
    cli.main(["table", "names=[a,b]", "dry_run=true", "overrides=['train.steps=5']"])
    assert calls == [TableConfig(names=["a", "b"], dry_run=True, overrides=["train.steps=5"])]


def test_a_sweep_runs_one_process_per_run(images: Path, tmp_path: Path) -> None:
    settings = [*SMALL, f"root={images}", "train.steps=2"]
    answer = diffi2i("train", "-m", *settings, "seed=0,1", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    seeds = {Record.read(file).seed for file in tmp_path.glob("outputs/runs/smoke/sisr-*/result.json")}
    assert seeds == {0, 1}


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        ("method.prior=truth,nothing", "method.prior=nothing: choose one of"),
        ("model.network.width=4,5", "model.network: width=5 must be an even number"),
    ],
)
def test_a_sweep_with_a_bad_value_starts_nothing(swept: str, words: str, images: Path, tmp_path: Path) -> None:
    answer = diffi2i("train", "-m", *SMALL, f"root={images}", swept, cwd=tmp_path)
    assert answer.returncode == 2
    assert words in answer.stderr
    assert list(tmp_path.iterdir()) == []
