"""Running what is missing and nothing else, through failures, kills and a second caller.

The program that is started is a small script in most tests: it takes its lock, notes its start, waits, and leaves a
record or fails, as a training does.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diffi2i import cli
from diffi2i.commands import sweep
from diffi2i.config.schema import Config, CpenConfig, DatasetConfig, ModelConfig
from diffi2i.errors import UserError
from diffi2i.files import read_json
from diffi2i.run import ensure as ensuring
from diffi2i.run import process, signals
from diffi2i.run.ensure import Durations, duration, ensure, ensure_before, total_duration
from diffi2i.run.identity import config_hash
from diffi2i.run.plan import RUNS, Run, planned
from diffi2i.run.record import Record
from diffi2i.run.state import (
    Failure,
    failure_file,
    has_checkpoint,
    is_locked,
    log_file,
    owner_file,
    read,
    working_on,
    write_failure,
)
from diffi2i.tables.draw import disagreements, found
from diffi2i.tables.experiment import Column, Experiment, Row
from diffi2i.tables.plan import Cell
from tests.conftest import small
from tests.places import ROOT
from tests.processes import diffi2i
from tests.refusals import command_refusal
from tests.settings import task_config, train_config
from tests.table_records import record

# `behaviour.json` says by name: how long a run takes, in seconds, or how it ends. `record.json` is what all leave, but
# for what they are.
FAKE = """
import fcntl, json, os, signal, sys, time
from pathlib import Path

given = dict(text.split("=", 1) for text in sys.argv[2:])
directory = Path(given["run_dir"])
name = directory.name
behaviour = json.loads(Path("behaviour.json").read_text()).get(name, 0)

def note(what):
    with open("events.log", "a") as log:
        log.write(f"{what} {name} {given.get('trainer.threads', '')}\\n")

def fail(reason):
    directory.with_name(f"{name}.failed.json").write_text(json.dumps({"reason": reason}))

(directory.parent / ".locks").mkdir(parents=True, exist_ok=True)
lock = os.open(directory.parent / ".locks" / name, os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
if (directory / "result.json").is_file():
    sys.exit()
if directory.is_dir() and any(directory.iterdir()) and not (directory / "checkpoints").is_dir():
    sys.exit(f"diffi2i: {directory} is not empty and holds no run: name another run_dir")
if "method.init" in given and not (Path(given["method.init"]) / "result.json").is_file():
    sys.exit("diffi2i: method.init is unfinished")
(directory / "checkpoints").mkdir(parents=True, exist_ok=True)
(directory / "pid").write_text(str(os.getpid()))
note("resumed" if (directory / "checkpoints" / "last.ckpt").is_file() else "started")
if behaviour == "refuse":
    print("diffi2i: train.lr=-1 must be above 0", file=sys.stderr)
    sys.exit(2)
if behaviour == "raise":
    print("some output before", flush=True)
    fail("ValueError: the loss")
    raise ValueError("the loss\\nis no number")
if behaviour == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "nothing":
    sys.exit()
(directory / "checkpoints" / "last.ckpt").touch()
time.sleep(behaviour)
record = json.loads(Path("record.json").read_text())
record["seed"] = int(given["seed"])
record["provenance"]["config_hash"] = given["hash"]
temporary = directory / "result.tmp"
temporary.write_text(json.dumps(record))
temporary.replace(directory / "result.json")
note("finished")
"""

Set = Callable[..., None]


@pytest.fixture
def behave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Makes tmp_path the working folder and FAKE the program; `behave(name=...)` says how the runs go."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake.py").write_text(FAKE)
    record([20.0], budget="smoke", task="sisr").write(tmp_path / "record.json")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(process, "PROGRAM", "fake")
    monkeypatch.setattr(ensuring, "POLL_SECONDS", 0.01)

    def set_behaviour(**by_name: Any) -> None:
        (tmp_path / "behaviour.json").write_text(json.dumps({k.replace("_", "-"): v for k, v in by_name.items()}))

    set_behaviour()
    return set_behaviour


def run_named(name: str, before: Run | None = None, seed: int = 0) -> Run:
    directory = RUNS / "smoke" / f"sisr-{name}"
    init = str(before.directory) if before else None
    made = Config(
        task=task_config(name="sisr"),
        dataset=DatasetConfig(name="photos", source={}),
        model=ModelConfig(name="tiny", network={}, cpen=CpenConfig(blocks=1)),
        method={"name": "s2" if before else "diffi2i_s2", "init": init},
        train=train_config(),
    )
    made = replace(made, budget="smoke", seed=seed)
    given = (f"seed={seed}", f"run_dir={directory}", f"hash={config_hash(made)}")
    return Run("train", (*given, *([f"method.init={init}"] if init else [])), directory, before, made)


STAGE1 = run_named("stage001")
A, B, C = (run_named(f"variant{letter}", STAGE1) for letter in "abc")
FOUR = [STAGE1, A, B, C]


def events(what: str) -> Counter[str]:
    """How often each run was `started`, `resumed` or `finished`."""
    if not Path("events.log").is_file():
        return Counter()
    lines = [line.split() for line in Path("events.log").read_text().splitlines()]
    return Counter(line[1] for line in lines if line[0] == what)


def names(runs: Sequence[Run]) -> Counter[str]:
    return Counter(run.directory.name for run in runs)


def in_process(runs: Sequence[Run], jobs: int = 1) -> Any:
    """`ensure` in a process of its own, with its output thrown away."""

    def body() -> None:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        ensure(runs, jobs)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def all_recorded(runs: Sequence[Run]) -> bool:
    return all(isinstance(read(run), Record) for run in runs)


def test_a_run_has_its_own_folder_variables_words_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "told.py").write_text(
        "import os, sys; print(os.getcwd(), sorted(os.environ), sys.argv[1:]); sys.exit('the last line')"
    )
    (tmp_path / "place").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(process, "PROGRAM", "told")
    run = process.begin(["train", "a=1"], {"HOME": "x"}, tmp_path / "place", log := tmp_path / "log")
    run.join()
    assert run.exitcode == 1
    assert log.read_text() == f"{tmp_path / 'place'} ['HOME'] ['train', 'a=1']\nthe last line\n"


def test_only_what_is_missing_is_run_and_stage_1_once(behave: Set, capsys: pytest.CaptureFixture[str]) -> None:
    ensure([STAGE1, A])
    assert events("started") == names([STAGE1, A])
    capsys.readouterr()
    ensure(FOUR)
    assert events("started") == events("finished") == names(FOUR)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in printed if "finished" in line] == [
        f"[1/2] finished {B.name}",
        f"[2/2] finished {C.name}",
    ]
    assert all(re.search(r"; \d+ s so far, about .* left$", line) for line in printed if "finished" in line)
    ensure(FOUR)
    assert capsys.readouterr().out == ""
    assert events("started") == names(FOUR)


def test_a_failed_row_says_why_and_the_others_go_on(behave: Set) -> None:
    behave(sisr_varianta="refuse", sisr_variantb="raise")
    ensure(FOUR)
    assert read(A) == Failure("train.lr=-1 must be above 0")
    assert read(B) == Failure("ValueError: the loss")
    assert isinstance(read(C), Record)
    assert "some output before" in log_file(B).read_text()
    # Later it goes better.
    behave()
    ensure(FOUR)
    assert all_recorded(FOUR)
    assert not failure_file(A.directory).exists()
    assert events("started") == names([*FOUR, A, B])


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("die", "ended by SIGKILL, perhaps for want of memory"), ("nothing", "exit status 0 without a record")],
)
def test_what_starts_from_a_failed_run_is_left_out(behave: Set, behaviour: str, reason: str) -> None:
    behave(**{"sisr_stage001": behaviour})
    other = run_named("alone001")
    ensure([*FOUR, other])
    assert events("started") == names([STAGE1, other])
    assert read(STAGE1) == Failure(reason)
    assert read(A) == Failure(f"{STAGE1.name}, which it starts from: {reason}")


def test_what_a_run_starts_from_may_be_listed_by_other_words(behave: Set) -> None:
    other = run_named("variantd", replace(STAGE1, overrides=STAGE1.overrides[::-1]))
    ensure([STAGE1, other])
    assert all_recorded([STAGE1, other])


def test_what_a_run_starts_from_comes_first_and_its_failure_is_the_runs(behave: Set) -> None:
    ensure_before(STAGE1)
    assert events("started") == Counter()
    behave(sisr_stage001="refuse")
    with pytest.raises(UserError, match=r"from: train\.lr=-1 must be above 0"):
        ensure_before(A)
    behave()
    ensure_before(A)
    ensure_before(A)
    assert events("finished") == names([STAGE1])


def test_several_slurm_tasks_do_not_train_together_what_comes_first(
    behave: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(UserError, match=r"write hydra.launcher.tasks_per_node=1"):
        ensure_before(A)
    monkeypatch.delenv("SLURM_NTASKS")
    ensure([STAGE1])
    monkeypatch.setenv("SLURM_NTASKS", "2")
    ensure_before(A)


def test_a_failure_is_noted_by_the_run_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_failure(A.directory, "an old one")
    with working_on(A.directory):
        assert is_locked(A)
        assert not failure_file(A.directory).exists()
    assert not is_locked(A)
    errors = [
        (UserError("write this"), "write this"),
        (ValueError("one\ntwo"), "ValueError: one"),
        (KeyError(), "KeyError"),
    ]
    for error, reason in errors:
        with pytest.raises(type(error)), working_on(A.directory):
            raise error
        assert read(A) == Failure(reason)
    # An interruption is no failure, and runs elsewhere leave nothing beside them.
    failure_file(A.directory).unlink()
    with pytest.raises(KeyboardInterrupt), working_on(A.directory):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="x"), working_on(tmp_path / "runs" / "mine"):
        raise ValueError("x")
    assert read(A) is None
    assert [file.name for file in (tmp_path / "runs").iterdir()] == [".locks"]


def test_who_works_on_a_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs on one directory: the second waits, and then finds out whose it is. A killed owner's lock is free."""
    run = tmp_path / "run"
    with working_on(run):
        told = (
            "from pathlib import Path; from diffi2i.run.state import working_on\n"
            f"with working_on(Path({str(run)!r})): pass"
        )
        with subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            words = f"waiting for {run}: process {os.getpid()} on {socket.gethostname()} works on it\n"
            assert second.stdout.readline() == words
            second.kill()
    assert capsys.readouterr().out == ""
    owner_file(run).write_text("process 7 on another-host")
    with working_on(run):
        assert "was left by process 7 on another-host, which has not said goodbye" in capsys.readouterr().out
    assert not owner_file(run).exists()


def test_ranks_after_the_first_take_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with working_on(tmp_path / "run"):
        assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_named_and_left_alone(behave: Set) -> None:
    STAGE1.directory.mkdir(parents=True)
    file = STAGE1.directory / "result.json"
    for text in ('{"task": "si', "\x00", "[]", '{"version": 3, "task": 3}'):
        file.write_text(text)
        ensure(FOUR)
        failure = read(STAGE1)
        assert isinstance(failure, Failure)
        assert str(file) in failure.reason
        assert read(A) == Failure(f"{STAGE1.name}, which it starts from: {failure.reason}")
        assert file.read_text() == text
    assert events("started") == Counter()
    file.unlink()
    file.parent.rmdir()
    ensure(FOUR)
    assert events("started") == names(FOUR)


@pytest.mark.parametrize(("key", "value"), [("seed", 7), ("budget", "paper"), ("config_hash", "0a0a0a0a")])
def test_a_record_of_another_run_is_refused_by_name(behave: Set, key: str, value: object) -> None:
    ensure([STAGE1])
    change(STAGE1, **({"provenance": {"config_hash": value}} if key == "config_hash" else {key: value}))
    entry = read(STAGE1)
    assert isinstance(entry, Failure)
    assert f"{key} is {value}" in entry.reason
    assert str(STAGE1.directory / "result.json") in entry.reason


def test_a_record_of_an_earlier_version_says_what_to_do(behave: Set) -> None:
    ensure(FOUR)
    change(A, version=2)
    entry = read(A)
    assert isinstance(entry, Failure)
    assert f"{A.directory / 'result.json'} is a record of version 2" in entry.reason
    assert "train the run anew" in entry.reason
    assert found(TABLE, CELLS).entries["a", 0, ""] == entry


def change(run: Run, **entries: Any) -> None:
    file = run.directory / "result.json"
    kept = read_json(file)
    parts = {key: kept[key] | value if isinstance(value, dict) else value for key, value in entries.items()}
    file.write_text(json.dumps(kept | parts))


TABLE = Experiment(
    title="three rows",
    task="sisr",
    columns=[Column("Set14", "psnr_y", "set14")],
    name="small",
    rows=[Row(name, name, [""]) for name in "abc"],
)
CELLS = [Cell(name, 0, run, run) for name, run in zip("abc", (A, B, C), strict=True)]


def test_test_sets_without_folder_say_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [replace(cell.run, config=replace(cell.run.config, budget="paper")) for cell in CELLS]
    cells = [replace(cell, run=run, record=run) for cell, run in zip(CELLS, runs, strict=True)]
    assert found(TABLE, cells).entries == {
        **{(row, 0, "set14"): Failure("give roots.set14=<folder>", "n/a") for row in "abc"},
        **{(row, 0, ""): None for row in "abc"},
    }


def test_two_records_of_one_cell_that_differ_are_both_named(behave: Set) -> None:
    ensure(FOUR)
    shipped = Path("results")
    for run in (A, B):
        twin = shipped / "smoke" / run.name
        twin.mkdir(parents=True)
        (twin / "result.json").write_bytes((run.directory / "result.json").read_bytes())
    assert disagreements(CELLS, shipped) == []
    change(A, scores={"psnr_hole": {"value": 31.5, "n": 1}}, provenance={"date": "today"})
    (line,) = disagreements(CELLS, shipped)
    assert line.startswith("a, seed 0: psnr_hole 31.5 and 20.0 in")
    assert str(A.directory) in line
    assert str(shipped / "smoke" / A.name) in line


def test_jobs_run_side_by_side_and_share_the_cores(behave: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    behave(sisr_varianta=0.5, sisr_variantb=0.5, sisr_variantc=0.5)
    ensure(FOUR, jobs=3)
    lines = [line.split() for line in Path("events.log").read_text().splitlines()]
    assert [line[0] for line in lines[2:]] == ["started"] * 3 + ["finished"] * 3
    assert {line[2] for line in lines} == {"2"}
    own = run_named("threads1")
    ensure([replace(own, overrides=(*own.overrides, "trainer.threads=5"))], jobs=3)
    assert Path("events.log").read_text().splitlines()[-1].endswith(" 5")


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_and_called_again_it_trains_nothing_twice(behave: Set, seed: int) -> None:
    """The table alone is killed: its run lives on, keeps the lock, and the next call waits for it."""
    behave(sisr_stage001=0.15, sisr_varianta=0.15, sisr_variantb=0.15, sisr_variantc=0.15)
    chance = random.Random(seed)
    for _ in range(4):
        process = in_process(FOUR)
        process.join(chance.uniform(0, 0.3))
        process.kill()
        process.join()
    ensure(FOUR)
    assert events("started") == events("finished") == names(FOUR)
    assert events("resumed") == Counter()
    assert all_recorded(FOUR)


@pytest.mark.parametrize("seed", range(3))
def test_runs_killed_with_the_table_are_resumed(behave: Set, seed: int) -> None:
    behave(sisr_stage001=60)
    process = in_process(FOUR)
    wait_until(lambda: has_checkpoint(STAGE1.directory))
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    behave(sisr_stage001=0.2, sisr_varianta=0.2, sisr_variantb=0.2, sisr_variantc=0.2)
    chance = random.Random(seed)
    for _ in range(3):
        process = in_process(FOUR)
        wait_until(partial(leads_or_ended, process))
        process.join(chance.uniform(0, 0.4))
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    ensure(FOUR)
    assert events("resumed")[STAGE1.directory.name] > 0
    assert all_recorded(FOUR)


def leads_or_ended(process: Any) -> bool:
    """Whether the process leads its own group, as `killpg` needs."""
    try:
        return os.getpgid(process.pid) == int(process.pid)
    except ProcessLookupError:
        return True


def test_two_tables_at_once_share_the_work(behave: Set) -> None:
    behave(sisr_stage001=0.2, sisr_varianta=0.2, sisr_variantb=0.2, sisr_variantc=0.2)
    callers = [in_process(FOUR) for _ in range(2)]
    for caller in callers:
        caller.join(30)
    assert [caller.exitcode for caller in callers] == [0, 0]
    assert events("started") == events("finished") == names(FOUR)


def test_a_failure_in_another_process_is_taken_as_it_is(behave: Set, capsys: pytest.CaptureFixture[str]) -> None:
    with working_on(A.directory):
        caller = in_process([STAGE1, A])
        wait_until(lambda: isinstance(read(STAGE1), Record))
        time.sleep(0.1)
        write_failure(A.directory, "no memory")
    caller.join(30)
    assert (caller.exitcode, read(A)) == (0, Failure("no memory"))
    assert events("started") == names([STAGE1])


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_table_stops_its_runs_and_leaves_them_to_be_resumed(behave: Set, stop: signal.Signals) -> None:
    behave(sisr_stage001=60)

    def body() -> None:
        # Shells start background jobs, perhaps this one, with Ctrl-C ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signals.listen()
        ensure(FOUR)

    caller = multiprocessing.get_context("fork").Process(target=body)
    caller.start()
    wait_until(lambda: has_checkpoint(STAGE1.directory))
    worker = int((STAGE1.directory / "pid").read_text())
    assert is_locked(STAGE1)
    assert caller.pid is not None
    os.kill(caller.pid, stop)
    caller.join(30)
    assert caller.exitcode not in (0, None)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert not is_locked(STAGE1)
    assert read(STAGE1) is None
    behave()
    ensure(FOUR)
    assert events("resumed") == names([STAGE1])


def test_who_waits_is_told_for_what(behave: Set, capsys: pytest.CaptureFixture[str]) -> None:
    behave(sisr_stage001=0.5)
    caller = in_process([STAGE1])
    wait_until(lambda: is_locked(STAGE1))
    ensure([STAGE1, A])
    caller.join()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"waiting for {STAGE1.name}: another process works on it"
    assert any(f"finished {STAGE1.name}, by another process" in line for line in printed)
    assert events("started") == names([STAGE1, A])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (360000, "4 d 04 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_run_is_expected_to_take_what_its_kind_took(behave: Set) -> None:
    assert Durations({"smoke"}).of(STAGE1) is None
    ensure([STAGE1])
    durations = Durations({"smoke"})
    assert durations.of(STAGE1) == 100  # as its record says
    assert durations.of(A) is None


def test_what_is_left_is_as_much_as_is_known() -> None:
    assert total_duration([60.0, 120.0], 2) == "about 1 min 30 s"
    assert total_duration([60.0, None], 1) == "about 1 min 00 s and 1 of unknown length"
    assert total_duration([None], 1) == "unknown"
    assert total_duration([], 1) == "about 0 s"


# The command.


def test_a_dry_run_prints_the_plan_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["table", "table4", "budget=smoke", "seeds=2", "--dry-run"])
    *lines, last = capsys.readouterr().out.splitlines()
    mine = [line for line in lines if "diffi2i" in line]
    first, second = (line.split() for line in mine[:2])
    assert first[0] == second[0] == "missing"
    assert "table4 (diffi2i, diffi2i-tlc)  unknown" in mine[0]
    assert mine[1].endswith(f"table4 (diffi2i, diffi2i-tlc)  unknown  after {first[1]}")
    assert "/eval/own-" in mine[4]
    assert mine[4].endswith(f"table4 (diffi2i-tlc)  unknown  after {second[1]}")
    assert last == f"0 of {len(lines)} runs finished, {len(lines)} to do; training time unknown with jobs=1"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_names_imports_and_does_not_train_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("authors.pth").write_bytes(b"weights")
    given = [f"imports.table4.{row}=authors.pth" for row in ("restormer", "nafnet", "mprnet")]
    cli.main(["table", "table4", *given, "budget=smoke", "seeds=2", "--dry-run"])
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if "deblur-spandrel-" in line] == ["missing"]
    assert "(mprnet, restormer, nafnet)" in printed  # here one file
    assert "regressor" not in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table4", "seeds=none"], "seeds: value 'none'"),
        (["table4", "jobs=0"], "jobs=0 must be above 0"),
        (["table4", "-m"], "does not sweep: leave out -m"),
        (["--dry-run"], "table needs run directories or experiments"),
        (["table99"], "no table 'table99': did you mean table9?"),
        (["table4", "outputs/demo"], "no table 'outputs/demo'"),
        (["table4", "budget=paper", "roots.set5=."], "write roots. and one of gopro, hide"),
        (["table4", "imports.table4.naf=x"], "no row that weights can fill 'naf': did you mean nafnet?"),
        (["table4", "imports.tabel4.nafnet=x"], "no table 'tabel4': did you mean table4?"),
        (["table4", "imports.table1.lama=x"], "is a row of none of these tables: name table1 too"),
        (["table4", "imports.table4.nafnet=x.pth"], "imports.table4.nafnet=x.pth is no file: name a checkpoint"),
        (["table4", "hydra.launcher.n_jobs=2"], "write launcher=<name> too"),
        (["table4", "launcher=slurm"], "hydra/launcher= one of joblib, ray, submitit_local, submitit_slurm"),
    ],
)
def test_a_request_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in command_refusal(["table", *arguments], capsys)


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The sweeps that a table starts, none of which is run: each leaves the records of its runs but for kl's seed 0."""
    monkeypatch.chdir(tmp_path)
    sweeps: list[list[str]] = []

    def pretend(arguments: list[str], check: bool) -> None:
        sweeps.append(arguments[arguments.index("-m", 2) + 1 :])
        given = [text for text in sweeps[-1] if not text.startswith("hydra")]
        for combination in sweep.combinations(given):
            run = planned(combination)
            if "experiment=table8/kl" in combination and run.config.seed == 0:
                continue
            run.directory.mkdir(parents=True, exist_ok=True)
            base = record([20.0], run.config.seed, budget="smoke")
            origin = replace(base.provenance, config_hash=config_hash(run.config))
            replace(base, provenance=origin).write(run.directory / "result.json")

    monkeypatch.setattr("diffi2i.commands.table.subprocess.run", pretend)
    return sweeps


@pytest.mark.filterwarnings("ignore:(?s).*validated against ConfigStore schema with the same name")
def test_a_launcher_gets_what_is_missing_those_first_that_others_start_from(
    sent: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["table8", "budget=smoke", "seeds=2", "launcher=joblib", "hydra.launcher.n_jobs=2", "trainer=cpu"]
    with pytest.raises(SystemExit, match="1"):
        cli.main(["table", *given])
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "budget=smoke", "trainer=cpu"]
    assert sent == [
        [*launcher, "experiment=table7/s1", "seed=0,1"],
        [*launcher, "experiment=table7/v3,table8/l2,table8/kl", "seed=0,1"],
    ]
    assert "ended without a record under launcher=joblib" in capsys.readouterr().out
    sent.clear()
    with pytest.raises(SystemExit, match="1"):
        cli.main(["table", *given])
    assert sent == [[*launcher, "experiment=table8/kl", "seed=0"]]


@pytest.mark.timeout(900)
def test_a_real_table_is_made_once_and_a_sweep_over_its_rows_finds_it(tmp_path: Path, images: Path) -> None:
    given = [text for text in small("inpainting", images) if not text.startswith(("task=", "method="))]
    table = diffi2i("table", "table8", *given, cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    files = {file: file.read_bytes() for file in (tmp_path / RUNS / "smoke").rglob("result.json")}
    assert sorted(file.parent.name.rpartition("-")[0] for file in files) == [
        "inpainting-diffi2i_s1",
        *["inpainting-diffi2i_s2"] * 3,
    ]
    page = (tmp_path / "outputs" / "tables" / "smoke" / "table8.md").read_text()
    assert page in table.stdout
    assert "failed" not in page
    sweep = diffi2i("train", "-m", "experiment=table8/kl", *given, cwd=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    assert sweep.stdout.count("is finished: nothing to do") == 1
    assert {file: file.read_bytes() for file in (tmp_path / RUNS / "smoke").rglob("result.json")} == files


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["reproduce-table-11"], "table table11 budget=demo"),
        (["reproduce-figure-6", "BUDGET=smoke", "SEEDS=2"], "table figure6 budget=smoke seeds=2"),
        (["reproduce-all", "ARGS=--dry-run"], "table all budget=demo --dry-run"),
    ],
)
def test_make_has_a_target_for_each_table(arguments: list[str], expected: str) -> None:
    answer = subprocess.run(
        ["make", "-n", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1].split()[1:] == expected.split()
