"""Running a plan: what is missing and nothing else, through failures, kills and a second caller.

The program that is started is a small script in most tests: it notes its start, waits, and leaves a record or fails.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
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
from diffi2i.tables.execute import duration, has_checkpoint, lock_file, log_file, total_duration, try_lock
from diffi2i.tables.records import Failure, collect, disagreements, failure_file, read

from diffi2i import cli
from diffi2i.errors import UserError
from diffi2i.run.files import read_json
from diffi2i.tables import command, execute
from diffi2i.tables.experiment import Column, Experiment, Row
from diffi2i.tables.plan import RUNS, Cell, Run, lineage, row_run
from tests.conftest import small
from tests.test_cli import diffi2i

# `behaviour.json` says by key: how long a run takes, in seconds, or how it ends. `hashes.json` has the hash of each
# configuration by key, where it is not the end of the key.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path

given = dict(text.split("=", 1) for text in sys.argv[2:])
directory = Path(given["run_dir"])
key = directory.name
behaviour = json.loads(Path("behaviour.json").read_text()).get(key, 0)
hashes = json.loads(Path("hashes.json").read_text()) if Path("hashes.json").is_file() else {}

def note(what):
    with open("events.log", "a") as log:
        log.write(f"{what} {key} {given.get('trainer.threads', '')}\\n")

if directory.is_dir() and any(directory.iterdir()) and not (directory / "checkpoints").is_dir():
    sys.exit(f"diffi2i: {directory} is not empty and holds no run: name another run_dir")
if "stage.init" in given and not (Path(given["stage.init"]) / "result.json").is_file():
    sys.exit("diffi2i: stage.init is unfinished")
(directory / "checkpoints").mkdir(parents=True, exist_ok=True)
note("resumed" if (directory / "checkpoints" / "last.ckpt").is_file() else "started")
if behaviour == "refuse":
    print("diffi2i: train.lr=-1 must be above 0", file=sys.stderr)
    sys.exit(2)
if behaviour == "raise":
    try:
        raise ValueError("the loss\\nis no number")
    finally:
        print("some output before", flush=True)
if behaviour == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "nothing":
    sys.exit()
(directory / "checkpoints" / "last.ckpt").touch()
time.sleep(behaviour)
init = Path(given["stage.init"]).name if "stage.init" in given else None
record = {
    "version": 2, "task": "sisr", "stage": given["stage"], "scale": "smoke", "seed": int(given["seed"]),
    "config_hash": hashes.get(key, key[-8:]), "init": init and {"config_hash": hashes.get(init, init[-8:])},
    "protocol": {"border": 4}, "inputs": "i", "dataset": {"name": "photos", "train": "t", "val": "v"},
    "wall_time_s": 60.0,
    "metrics": {"psnr_y": 30.0 + int(given["seed"])}, "per_image": [],
}
temporary = directory / "result.tmp"
temporary.write_text(json.dumps(record))
temporary.replace(directory / "result.json")
note("finished")
"""

Set = Callable[..., None]


@pytest.fixture
def behave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Makes tmp_path the working folder and FAKE the program; `behave(key=...)` says how the runs go."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake.py").write_text(FAKE)
    # Isolated and without site packages, it starts in a few milliseconds.
    monkeypatch.setattr(execute, "PROGRAM", (sys.executable, "-I", "-S", str(tmp_path / "fake.py")))
    monkeypatch.setattr(execute, "POLL_SECONDS", 0.01)

    def set_behaviour(**by_key: Any) -> None:
        (tmp_path / "behaviour.json").write_text(json.dumps({k.replace("_", "-"): v for k, v in by_key.items()}))

    set_behaviour()
    return set_behaviour


def run_named(key: str, needs: Run | None = None, seed: int = 0) -> Run:
    """A run whose key ends in eight characters, which are its hash."""
    key = f"sisr-{key}"
    directory = RUNS / "smoke" / key
    stage = "joint" if needs else "pretrain"
    given = (f"stage={stage}", f"seed={seed}", f"run_dir={directory}")
    init = (f"stage.init={needs.directory}",) if needs else ()
    return Run("train", key, directory, (*given, *init), "sisr", stage, "smoke", seed, needs, key[-8:])


STAGE1 = run_named("stage001")
A, B, C = (run_named(f"variant{letter}", STAGE1) for letter in "abc")
FOUR = [STAGE1, A, B, C]


def events(what: str) -> Counter[str]:
    """How often each run was `started`, `resumed` or `finished`."""
    if not Path("events.log").is_file():
        return Counter()
    lines = [line.split() for line in Path("events.log").read_text().splitlines()]
    return Counter(line[1] for line in lines if line[0] == what)


def keys(runs: Sequence[Run]) -> Counter[str]:
    return Counter(run.key for run in runs)


def in_process(runs: Sequence[Run], jobs: int = 1) -> Any:
    """`execute` in a process of its own, with its output thrown away."""

    def body() -> None:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        execute.execute(runs, jobs)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_only_what_is_missing_is_run_and_stage_1_once(behave: Set, capsys: pytest.CaptureFixture[str]) -> None:
    execute.execute([STAGE1, A])
    assert events("started") == keys([STAGE1, A])
    capsys.readouterr()
    execute.execute(FOUR)
    assert events("started") == events("finished") == keys(FOUR)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in printed if "finished" in line] == [
        f"[1/2] finished {B.key}",
        f"[2/2] finished {C.key}",
    ]
    assert all(re.search(r"; \d+ s so far, about \d+ s left$", line) for line in printed if "finished" in line)
    execute.execute(FOUR)
    assert capsys.readouterr().out == ""
    assert events("started") == keys(FOUR)


def test_a_failed_row_says_why_and_the_others_go_on(behave: Set) -> None:
    behave(sisr_varianta="refuse", sisr_variantb="raise")
    execute.execute(FOUR)
    assert read(A) == Failure("train.lr=-1 must be above 0")
    assert read(B) == Failure("ValueError: the loss")
    assert isinstance(read(C), dict)
    assert "some output before" in log_file(B).read_text()
    # Later it goes better.
    behave()
    execute.execute(FOUR)
    assert all(isinstance(read(run), dict) for run in FOUR)
    assert not failure_file(A).exists()
    assert events("started") == keys([*FOUR, A, B])


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("die", "ended by SIGKILL, perhaps for want of memory"), ("nothing", "exit status 0 without a record")],
)
def test_what_starts_from_a_failed_run_is_left_out(behave: Set, behaviour: str, reason: str) -> None:
    behave(**{"sisr_stage001": behaviour})
    other = run_named("alone001")
    execute.execute([*FOUR, other])
    assert events("started") == keys([STAGE1, other])
    assert read(STAGE1) == Failure(reason)
    assert read(A) == Failure(f"{STAGE1.key}, which it starts from: {reason}")


def test_a_run_refused_before_it_has_a_configuration_can_be_tried_again(behave: Set) -> None:
    execute.write_failure(STAGE1, "no such thing")
    execute.execute([STAGE1])
    assert isinstance(read(STAGE1), dict)


def test_a_damaged_record_is_named_and_left_alone(behave: Set) -> None:
    STAGE1.directory.mkdir(parents=True)
    file = STAGE1.directory / "result.json"
    texts = {'{"task": "si': "delete it", "\x00": "delete it", "[]": "", '{"version": 2, "dataset": 3}': ""}
    for text, words in texts.items():
        file.write_text(text)
        execute.execute(FOUR)
        failure = read(STAGE1)
        assert isinstance(failure, Failure)
        assert all(part in failure.reason for part in ("damaged", str(file), words))
        assert read(A) == Failure(f"{STAGE1.key}, which it starts from: {failure.reason}")
        assert file.read_text() == text
    assert events("started") == Counter()
    file.unlink()
    file.parent.rmdir()
    execute.execute(FOUR)
    assert events("started") == keys(FOUR)


@pytest.mark.parametrize(("key", "value"), [("seed", 7), ("scale", "paper"), ("config_hash", "0a0a0a0a")])
def test_a_record_of_another_run_is_refused_by_name(behave: Set, key: str, value: object) -> None:
    execute.execute([STAGE1])
    change(STAGE1, **{key: value})
    entry = read(STAGE1)
    assert isinstance(entry, Failure)
    assert f"{key} is {value}" in entry.reason
    assert str(STAGE1.directory / "result.json") in entry.reason


def test_a_record_that_started_from_another_run_is_refused_by_name(behave: Set) -> None:
    execute.execute([STAGE1, A])
    change(A, init={"config_hash": "0a0a0a0a"})
    change(STAGE1, init={"config_hash": "0a0a0a0a"})
    for run, words in ((A, "it started from 0a0a0a0a, not from stage001"), (STAGE1, "from 0a0a0a0a, not anew")):
        entry = read(run)
        assert isinstance(entry, Failure)
        assert words in entry.reason
        assert str(run.directory / "result.json") in entry.reason


def test_a_record_of_version_0_1_says_what_to_do(behave: Set) -> None:
    execute.execute(FOUR)
    file = A.directory / "result.json"
    file.write_text(json.dumps({key: value for key, value in read_json(file).items() if key != "version"}))
    entry = read(A)
    assert isinstance(entry, Failure)
    assert f"{file} is a record of version 0.1" in entry.reason
    assert "train the run anew" in entry.reason
    assert collect(TABLE, CELLS).own["a", 0] == entry


def change(run: Run, **entries: object) -> None:
    file = run.directory / "result.json"
    file.write_text(json.dumps(read_json(file) | entries))


TABLE = Experiment(
    "small",
    "three rows",
    "sisr",
    [],
    [Column("set14", "psnr_y", "Set14", ["dataset=set14"])],
    [Row(name, name, [], [None]) for name in "abc"],
)
CELLS = [Cell(name, 0, run, run) for name, run in zip("abc", (A, B, C), strict=True)]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"protocol": {"border": 0}}, "the protocol's border is 4 in one, 0 in the other"),
        ({"dataset": {"name": "photos", "train": "t", "val": "other"}}, "their images are different files"),
        ({"dataset": {"name": "photos", "train": "other", "val": "v"}}, "it was trained on other images"),
        ({"inputs": "other"}, "the inputs made of their images are different"),
    ],
)
def test_a_record_that_does_not_compare_with_the_others_is_refused(
    behave: Set, entries: dict[str, Any], words: str
) -> None:
    execute.execute(FOUR)
    change(A, **entries)
    filled = collect(TABLE, CELLS)
    stray = filled.own["a", 0]
    assert isinstance(stray, Failure)
    assert f"does not compare with the other rows: {words}" in stray.reason
    assert str(A.directory) in stray.reason
    assert all(isinstance(filled.own[row, 0], dict) for row in "bc")
    assert filled.columns == {}


def test_test_sets_without_folder_say_what_to_give() -> None:
    cells = [replace(cell, run=replace(cell.run, scale="paper")) for cell in CELLS]
    filled = collect(TABLE, cells)
    assert filled.columns == {(row, 0, "set14"): Failure("give roots.set14=<folder>", "n/a") for row in "abc"}
    assert filled.own == {(row, 0): None for row in "abc"}


def test_two_records_of_one_cell_that_differ_are_both_named(behave: Set) -> None:
    execute.execute(FOUR)
    shipped = Path("results")
    for run in (A, B):
        twin = shipped / "smoke" / run.key
        twin.mkdir(parents=True)
        (twin / "result.json").write_bytes((run.directory / "result.json").read_bytes())
    assert disagreements(CELLS, shipped) == []
    change(A, metrics={"psnr_y": 31.5}, date="today")
    (line,) = disagreements(CELLS, shipped)
    assert line.startswith("a, seed 0: metrics.psnr_y 31.5 and 30.0")
    assert str(A.directory / "result.json") in line
    assert str(shipped / "smoke" / A.key / "result.json") in line


def test_jobs_run_side_by_side_and_share_the_cores(behave: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    behave(sisr_varianta=0.5, sisr_variantb=0.5, sisr_variantc=0.5)
    execute.execute(FOUR, jobs=3)
    lines = [line.split() for line in Path("events.log").read_text().splitlines()]
    assert [line[0] for line in lines[2:]] == ["started"] * 3 + ["finished"] * 3
    assert {line[2] for line in lines} == {"2"}
    own = replace(
        STAGE1, overrides=(*STAGE1.overrides, "trainer.threads=5"), directory=RUNS / "smoke" / "sisr-threads1"
    )
    execute.execute([replace(own, overrides=(*own.overrides, f"run_dir={own.directory}"))], jobs=3)
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
    execute.execute(FOUR)
    assert events("started") == events("finished") == keys(FOUR)
    assert events("resumed") == Counter()
    assert all(isinstance(read(run), dict) for run in FOUR)


@pytest.mark.parametrize("seed", range(3))
def test_runs_killed_with_the_table_are_resumed(behave: Set, seed: int) -> None:
    behave(sisr_stage001=60)
    process = in_process(FOUR)
    wait_until(lambda: has_checkpoint(STAGE1))
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
    execute.execute(FOUR)
    assert events("resumed")[STAGE1.key] > 0
    assert all(isinstance(read(run), dict) for run in FOUR)


def leads_or_ended(process: Any) -> bool:
    """Whether the process leads its own group, as `killpg` needs."""
    try:
        return os.getpgid(process.pid) == int(process.pid)
    except ProcessLookupError:
        return True


def test_two_tables_at_once_share_the_work(behave: Set) -> None:
    behave(sisr_stage001=0.2, sisr_varianta=0.2, sisr_variantb="refuse", sisr_variantc=0.2)
    callers = [in_process(FOUR) for _ in range(2)]
    for caller in callers:
        caller.join(30)
    assert [caller.exitcode for caller in callers] == [0, 0]
    assert events("started") == keys(FOUR)
    assert events("finished") == keys([STAGE1, A, C])
    assert read(B) == Failure("train.lr=-1 must be above 0")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_table_stops_its_runs_and_leaves_them_to_be_resumed(behave: Set, stop: signal.Signals) -> None:
    behave(sisr_stage001=60)

    def body() -> None:
        signal.signal(signal.SIGTERM, command.stopped)
        # Shells start background jobs, perhaps this one, with Ctrl-C ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        execute.execute(FOUR)

    caller = multiprocessing.get_context("fork").Process(target=body)
    caller.start()
    wait_until(lambda: has_checkpoint(STAGE1) and bool(lock_file(STAGE1).read_text()))
    worker = int(lock_file(STAGE1).read_text())
    assert try_lock(STAGE1) is None
    assert caller.pid is not None
    os.kill(caller.pid, stop)
    caller.join(30)
    assert caller.exitcode not in (0, None)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    lock = try_lock(STAGE1)
    assert lock is not None
    os.close(lock)
    assert read(STAGE1) is None
    behave()
    execute.execute(FOUR)
    assert events("resumed") == keys([STAGE1])


def test_who_waits_is_told_for_whom(behave: Set, capsys: pytest.CaptureFixture[str]) -> None:
    behave(sisr_stage001=0.5)
    caller = in_process([STAGE1])
    wait_until(lambda: lock_file(STAGE1).is_file() and bool(lock_file(STAGE1).read_text()))
    worker = lock_file(STAGE1).read_text()
    execute.execute([STAGE1, A])
    caller.join()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"waiting for {STAGE1.key}: process {worker} works on it"
    assert any(f"finished {STAGE1.key}, by another process" in line for line in printed)
    assert events("started") == keys([STAGE1, A])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (360000, "4 d 04 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_run_is_expected_to_take_what_its_kind_took(behave: Set) -> None:
    assert execute.Durations({"smoke"}).of(STAGE1) is None
    execute.execute([STAGE1])
    durations = execute.Durations({"smoke"})
    assert durations.of(STAGE1) == 60  # as its record says
    assert durations.of(A) is None
    for seconds in (3, 5, 40):
        durations.measured(STAGE1, seconds)
    assert durations.of(STAGE1) == 5


def test_what_is_left_is_as_much_as_is_known() -> None:
    assert total_duration([60.0, 120.0], 2) == "about 1 min 30 s"
    assert total_duration([60.0, None], 1) == "about 1 min 00 s and 1 of unknown length"
    assert total_duration([None], 1) == "unknown"
    assert total_duration([], 1) == "about 0 s"


TINY = """
name: tiny
title: two rows
task: sisr
overrides: [task=sisr]
columns:
  - {dataset: "", metric: parameters, heading: "Parameters (M)"}
  - {dataset: set14, metric: psnr_y, heading: "Set14, PSNR", evaluation: [dataset=set14]}
rows:
  - {name: s1, label: stage 1, overrides: [stage=pretrain], paper: [1, 2]}
  - {name: s2, label: stage 2, overrides: [stage=joint], before: [[stage=pretrain]], paper: [3, 4]}
  - {name: peer, label: a peer, overrides: null, paper: [5, 6], note: "peer: the paper's value"}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return file


def test_a_dry_run_prints_the_plan_and_touches_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.table([str(tiny), "scale=smoke", "seeds=2", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    first, second = (line.split() for line in lines[:2])
    assert first[0] == second[0] == "missing"
    assert "tiny (s1, s2)  unknown" in lines[0]
    assert lines[1].endswith(f"tiny (s2)  unknown  after {first[1]}")
    assert lines[-1] == "0 of 4 runs finished, 4 to do; training time unknown with jobs=1"
    assert list(tiny.parent.iterdir()) == [tiny]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny.yaml", "seeds=none"], "seeds=none must be a whole number"),
        (["tiny.yaml", "jobs=0"], "jobs=0 must be a whole number"),
        (["tiny.yaml", "-m"], "does not know -m"),
        (["--dry-run"], "needs the name of an experiment"),
        (["table99"], "no experiment 'table99'"),
        (["tiny.yaml", "outputs/demo"], "no experiment 'outputs/demo'"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["tiny.yaml", "scale=paper", "roots.set5=."], "write roots. and one of set14"),
    ],
)
def test_a_request_that_cannot_be_is_refused_in_one_line(
    tiny: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["table", *arguments])
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_row_trained_alone_gets_what_comes_before_it_first(
    behave: Set, tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = [f"experiment={tiny}", "variant=s2", "scale=smoke"]
    run = row_run(row)
    assert run.needs is not None
    keep_hashes(lineage(run))
    behave(**{run.needs.key: "refuse"})
    with pytest.raises(UserError, match=r"from: train\.lr=-1 must be above 0"):
        execute.train_row(row)
    behave(**{run.key: "refuse"})
    with pytest.raises(SystemExit, match="2"):
        execute.train_row(row)
    assert "train.lr=-1 must be above 0" in capfd.readouterr().err
    behave()
    execute.train_row(row)
    assert events("finished") == Counter([run.needs.key, run.key])
    execute.train_row(row)
    assert events("started") == Counter({run.needs.key: 2, run.key: 2})


def test_a_row_trained_alone_gets_the_whole_chain_before_it(behave: Set) -> None:
    row = ["experiment=table3", "variant=diffi2i", "scale=smoke"]
    runs = lineage(row_run(row))
    keep_hashes(runs)
    execute.train_row(row)
    lines = [line.split()[:2] for line in Path("events.log").read_text().splitlines()]
    assert lines == [[what, run.key] for run in runs for what in ("started", "finished")]
    assert len(runs) == 3
    assert all(isinstance(read(run), dict) for run in runs)


def keep_hashes(runs: Sequence[Run]) -> None:
    """Planned runs are named by more than their configuration."""
    Path("hashes.json").write_text(json.dumps({run.key: run.config_hash for run in runs}))


@pytest.mark.timeout(900)
def test_a_real_table_is_made_once_and_a_sweep_over_its_rows_finds_it(tiny: Path, images: Path) -> None:
    given = [text for text in small("sisr", images) if not text.startswith("task=")]
    table = diffi2i("table", str(tiny), *given, cwd=tiny.parent)
    assert table.returncode == 0, table.stderr
    files = {file: file.read_bytes() for file in (tiny.parent / RUNS / "smoke").glob("*/result.json")}
    assert sorted(json.loads(text)["stage"] for text in files.values()) == ["joint", "pretrain"]
    page = (tiny.parent / "outputs" / "tables" / "smoke" / "tiny.md").read_text()
    assert page in table.stdout
    assert "failed" not in page
    sweep = diffi2i("train", "-m", f"experiment={tiny}", "variant=s1,s2", *given, cwd=tiny.parent)
    assert sweep.returncode == 0, sweep.stderr
    assert sweep.stdout.count("is finished: nothing to do") == 2
    assert {file: file.read_bytes() for file in (tiny.parent / RUNS / "smoke").glob("*/result.json")} == files


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["reproduce-table-11"], "table table11 scale=demo"),
        (["reproduce-figure-6", "SCALE=smoke", "SEEDS=2"], "table figure6 scale=smoke seeds=2"),
        (["reproduce-all", "ARGS=--dry-run"], "table all scale=demo --dry-run"),
    ],
)
def test_make_has_a_target_for_each_table(arguments: list[str], expected: str) -> None:
    root = Path(__file__).parents[1]
    answer = subprocess.run(
        ["make", "-n", "--no-print-directory", *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1].split()[1:] == expected.split()
