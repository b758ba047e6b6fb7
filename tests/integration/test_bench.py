"""`diffi2i bench`: cases side by side, and what cannot be one."""

import importlib
import json
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from diffi2i import cli
from diffi2i.commands import train
from diffi2i.commands.bench import bench, ratio_of, split
from diffi2i.config.commands import BenchConfig
from diffi2i.config.schema import TrainerConfig
from diffi2i.tables.experiment import load
from tests.conftest import SMALL_METHODS, Make
from tests.places import ROOT
from tests.refusals import command_refusal, refusal

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
CPU = TrainerConfig(accelerator="cpu", precision="fp32", threads=1)
LDM = " ".join(["task=sisr method=ldm", *SMALL_METHODS["ldm"]])


def measured(folder: Path) -> Any:
    return json.loads((folder / "bench.json").read_text())


@pytest.mark.usefixtures("quick_bench")
def test_cases_are_timed_side_by_side(make: Make, tmp_path: Path, capsys: Any) -> None:
    run = train.train(make("run", "task=sisr", "train.steps=2"))
    cases = [f"run={run}", LDM, f"{LDM} method.sampler.steps=8", "task=sisr method=regressor model=rrdb_tiny"]
    bench(BenchConfig(cases=cases, size="32x48", repeats=3, trainer=CPU, output=str(tmp_path / "b")))
    found = measured(tmp_path / "b")
    rows = found["cases"]
    assert [row["name"] for row in rows] == cases
    assert all(row["size"] == [32, 48] and len(row["seconds"]) == 3 for row in rows)
    assert [row["calls"] for row in rows] == [1, 4, 8, 1]
    assert [row["timed_calls"] for row in rows] == [1, 4, 8, 1]
    assert rows[0]["ratio"] == 1
    for row in rows:
        logs = [math.log(a / b) for a, b in zip(row["seconds"], rows[0]["seconds"], strict=True)]
        assert row["ratio"] == pytest.approx(math.exp(sum(logs) / 3))
    assert rows[2]["macs"] - rows[1]["macs"] == 4 * rows[1]["macs_of_call"]
    assert all(row["parameters"] == sum(row["parts"].values()) for row in rows)
    page = capsys.readouterr().out
    assert page.endswith((tmp_path / "b" / "bench.md").read_text())
    assert "output 32x48" in page
    assert all(f"| {case}" in page for case in cases)
    assert (tmp_path / "b" / "bench.png").stat().st_size > 1000


def test_a_long_case_is_timed_on_some_of_its_calls_and_marked(tmp_path: Path, capsys: Any) -> None:
    case = f"{LDM} method.sampler.steps=20"
    bench(BenchConfig(cases=[case], size="64", repeats=1, limit=1e-3, trainer=CPU, output=str(tmp_path / "b")))
    (row,) = measured(tmp_path / "b")["cases"]
    assert row["calls"] == 20
    assert row["timed_calls"] == 2
    assert 1 < row["peak_memory_mb"] < 1000  # of a process of its own, without its libraries
    assert (row["ratio_low"], row["ratio_high"]) == (None, None)  # of a single round
    page = capsys.readouterr().out
    assert f"~ {case}: timed on 2 of 20 network calls, the rest reckoned." in page
    assert "| ~" in page


def test_the_interval_of_a_ratio_is_students() -> None:
    seconds, reference = [2.0, 2.2, 1.9, 2.1], [1.0, 1.05, 0.97, 1.0]
    logs = [math.log(a / b) for a, b in zip(seconds, reference, strict=True)]
    low, high = stats.t.interval(0.95, 3, loc=sum(logs) / 4, scale=stats.sem(logs))
    assert ratio_of(seconds, reference) == pytest.approx((math.exp(sum(logs) / 4), math.exp(low), math.exp(high)))


def test_the_words_of_a_case() -> None:
    assert split("method=ldm  method.sampler={_target_: a.b, steps: 3} size=[1, 2]") == [
        "method=ldm",
        "method.sampler={_target_: a.b, steps: 3}",
        "size=[1, 2]",
    ]
    assert split("run=my runs/s2  method.sampler.steps=2 ~task.gt") == [
        "run=my runs/s2",
        "method.sampler.steps=2",
        "~task.gt",
    ]


@pytest.mark.usefixtures("quick_bench")
def test_cases_come_from_the_command_line(tmp_path: Path) -> None:
    small = [text for text in SMALL_METHODS["ldm"] if text.startswith("model.")]
    cases = "cases=[method.sampler.steps=2,method.sampler.steps=[10,20] seed=1]"
    shared = ["task=sisr", "method=ldm", "method.diffusion.steps=20", *small]
    cli.main(["bench", *shared, cases, "size=32", "repeats=1", "trainer=cpu", f"output={tmp_path / 'b'}"])
    assert [row["name"] for row in measured(tmp_path / "b")["cases"]] == [
        "method.sampler.steps=2",
        "method.sampler.steps=[10,20] seed=1",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["size=0"], "size=0: write the output's side"),
        (["size=3x4x5"], "size=3x4x5: write the output's side"),
        (["repeats=0"], "repeats=0 must be above 0"),
        (["task=sisr", "size=33"], "size=33 must be a multiple of task=sisr's scale, 4"),
        (["cases=[method=lmd]"], "method=lmd is unknown"),
        (["cases=[run=nowhere]"], "nowhere is no run directory"),
        (["cases=[seed=1,seed=1]"], "cases: seed=1 stands there twice"),
        (["task=sisr", "cases=[method=ldm method.sampler.steps=0]"], "method.sampler: steps=0 does not fit"),
        (["task=depth", "cases=[method=ldm]"], "predicts image, task=depth depth"),
        (["foo=1"], "unknown key 'foo'"),
    ],
)
def test_what_cannot_be_timed_is_refused(arguments: list[str], words: str, capsys: Any, tmp_path: Path) -> None:
    assert words in command_refusal(["bench", *arguments, f"output={tmp_path / 'b'}"], capsys)
    assert not (tmp_path / "b").exists()


def test_a_size_that_does_not_fit_is_named() -> None:
    assert "size=1x: write" in refusal(lambda: BenchConfig(size="1x"))


@pytest.mark.parametrize("what", ["inference", pytest.param("training", marks=pytest.mark.long)])
def test_the_comparison_with_diffir_takes_turns(what: str, tmp_path: Path) -> None:
    """Without the authors' code; at sizes that take a second, of which nothing follows."""
    script, output = str(ROOT / "benchmarks" / "speed.py"), tmp_path / "found.json"
    words = [sys.executable, script, what, "task=sisr", "budget=smoke", "size=32", "rounds=2", f"output={output}"]
    environment = {name: value for name, value in os.environ.items() if name != "DIFFIR"}
    printed = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    case, times = r"(Diff\S+, (?:fp32|bf16)(?:, memory kept)?)", r"(\S+ \[\S+, \S+\])"
    rows = re.findall(rf"^\| {case}(?:, stage \d)? .* {times} \|", printed, re.M)
    stages = 1 if what == "inference" else 2
    names = ["DiffIR, fp32", "DiffI2I, fp32", "DiffI2I, bf16"] * stages + ["DiffIR, fp32, memory kept"] * stages
    assert [name for name, _ in rows] == names
    assert rows[0][1] == "1.00 [1.00, 1.00]"
    found = json.loads(output.read_text(encoding="utf-8"))["cases"]
    assert all(len(case["wall"]) == 2 and case["peak_mb"] >= 0 for case in found.values())


def test_how_much_faster_kept_features_are_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr("sys.argv", ["caching.py", "size=64", "steps=4", "every=1,4", "rounds=2"])
    runpy.run_path(str(ROOT / "benchmarks" / "caching.py"), run_name="__main__")
    first, second = (row.split("|") for row in capsys.readouterr().out.strip().splitlines()[2:])
    assert (first[1].strip(), second[1].strip()) == ("1", "4")
    assert float(second[2]) < float(first[2])


def test_the_rows_of_tables_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a table those that stand for the run they start from, one of them scored anew."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    milliseconds: Any = importlib.import_module("milliseconds")
    few = load("neighbours1")
    few.rows = [row for row in few.rows if row.name in ("depth4", "depth4-steps", "int8")]
    monkeypatch.setattr(milliseconds, "load", lambda name: few)
    file = tmp_path / "new" / "ms.json"
    words = ["tables=neighbours1", "budget=smoke", "size=32", "rounds=3", f"output={file}"]
    monkeypatch.setattr("sys.argv", ["milliseconds.py", *words])
    milliseconds.main()
    rows = json.loads(file.read_text())["rows"]
    calls = {"neighbours1/depth4": 10, "neighbours1/depth4-steps": 5, "neighbours1/int8": 10}
    assert {row["row"]: row["calls"] for row in rows} == calls
    assert all(row["ms"] == 1e3 * sorted(row["wall"])[1] for row in rows)
