"""`diffi2i compare`: the table of two records; and what does not compare, here and in every other command."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from diffi2i import cli
from diffi2i.errors import UserError
from diffi2i.run.files import write_json
from diffi2i.tables.compare import comparison, read_scores
from diffi2i.tables.experiment import Column, Experiment
from diffi2i.tables.plan import Cell, Run
from diffi2i.tables.records import Failure, collect

NAMES = ["one", "other"]


def record(psnr: list[float], rmse: list[float] | None = None, **changes: Any) -> dict[str, Any]:
    """A record of `psnr` and `rmse` for images a, b, c, ...; `rmse` stands for a score that is to be low."""
    rmse = [1.0 for _ in psnr] if rmse is None else rmse
    rows = [{"name": chr(97 + i), "psnr": p, "rmse": r} for i, (p, r) in enumerate(zip(psnr, rmse, strict=True))]
    base = {
        "version": 2,
        "task": "deblur",
        "stage": "joint",
        "prior": "joint",
        "init": {"config_hash": "89abcdef"},
        "timesteps": None,
        "scale": "demo",
        "seed": 0,
        "degrade": {"blur": {"size": 5, "noise": 0.1}},
        "val_crop": 64,
        "inputs": "i",
        "main_metric": "psnr",
        "n_images": {"psnr": len(psnr), "rmse": len(psnr), "fid": 4096},
        "baseline": {"psnr": 18.0},
        "reasons": {},
        "parameters": 2_600_000,
        "seconds_per_image": 0.0456,
        "network_steps": 300,
        "wall_time_s": 1.0,
        "config_hash": "01234567",
        "protocol": {"border": 0, "seed": 0, "flip": False, "metrics": ["psnr"]},
        "metrics": {"psnr": sum(psnr) / len(psnr), "rmse": sum(rmse) / len(rmse), "fid": 12.0, "prior_dependence": 0.1},
        "per_image": rows,
        "dataset": {"name": "folder", "train": "t", "val": "abc"},
    }
    return base | changes


def cells(printed: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run directory and a JSON file."""
    run, file = tmp_path / "run", tmp_path / "scores.json"
    run.mkdir()
    write_json(run / "result.json", record([20.0, 22.0, 24.0, 26.0]))
    # A score of folders has other hashes, says nothing of a run, and its images may be in another order.
    scored = record([21.0, 23.5, 24.0, 25.5], [0.8, 0.9, 1.0, 0.9])
    other = {key: scored[key] for key in ("task", "protocol", "metrics", "per_image")}
    other["manifest"] = {"pred": "x", "target": "y"}
    other["per_image"].reverse()
    write_json(file, other)
    return run, file


def test_the_table_compares_image_by_image(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["compare", *map(str, runs)])
    printed = capsys.readouterr().out
    assert f"A: {runs[0]} (stage 2)\nB: {runs[1]}\ndeblur, 4 images" in printed
    table = cells(printed)
    assert table[""] == ["A", "B", "B − A", "95 % interval", "better", "worse", "equal", "p"]
    assert table["PSNR ↑"][:3] == ["23.00", "23.50", "+0.500"]
    assert table["PSNR ↑"][4:] == ["2", "1", "1", "1"]
    # Lower is better: three images improved, 2 * 0.5^3 for all three on one side.
    assert table["RMSE ↓"][:3] == ["1.0000", "0.9000", "-0.10000"]
    assert table["RMSE ↓"][4:] == ["3", "0", "1", "0.25"]
    fid = next(row for name, row in table.items() if name.lower().startswith("fid"))
    assert fid == ["12.0000", "12.0000", "+0.00000", "", "", "", "", ""]
    assert not any("prior" in name for name in table)


def test_output_holds_the_numbers(runs: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "compared.json"
    cli.main(["compare", f"output={file}", *map(str, runs)])
    found = json.loads(file.read_text())
    assert (found["a"], found["b"], found["n_images"]) == (str(runs[0]), str(runs[1]), 4)
    psnr = found["metrics"]["psnr"]
    assert psnr["difference"] == pytest.approx(0.5)
    assert psnr["interval"][0] < 0.5 < psnr["interval"][1]
    assert found["metrics"]["fid"] == {"a": 12.0, "b": 12.0, "difference": 0.0}


def test_a_score_that_one_side_has_not_is_shown_without_difference() -> None:
    other = record([1.0, 2.0])
    other["metrics"]["psnr"] = None
    for row in other["per_image"]:
        del row["psnr"]
    assert comparison(record([1.0, 2.0]), other, NAMES)["metrics"]["psnr"] == {"a": 1.5, "b": None, "difference": None}


def test_infinite_scores_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [tmp_path / "a.json", tmp_path / "b.json"]
    for place, values in zip(places, ([20.0, float("inf")], [float("inf"), float("inf")]), strict=True):
        write_json(place, record(values))
    cli.main(["compare", *map(str, places), f"output={tmp_path / 'c.json'}"])
    assert cells(capsys.readouterr().out)["PSNR ↑"][3:] == ["", "1", "0", "1", "1"]
    assert json.loads((tmp_path / "c.json").read_text())["metrics"]["psnr"]["difference"] == "inf"


def protocol(**changes: Any) -> dict[str, Any]:
    return {"protocol": record([1.0])["protocol"] | changes}


PSNR = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
APART: list[tuple[dict[str, Any], str]] = [
    ({"task": "sisr"}, "the task is deblur in one, sisr in the other"),
    ({"degrade": {"blur": {"size": 5, "noise": 0.2}}}, "the degradation is 0.1 in one, 0.2 in the other"),
    ({"degrade": {"mask": "wide"}}, "the degradation is "),
    ({"val_crop": 32}, "the crop that is scored is 64 in one, 32 in the other"),
    (protocol(border=4), "the protocol's border is 0 in one, 4 in the other"),
    (protocol(seed=1), "the protocol's seed is 0 in one, 1 in the other"),
    (protocol(flip=True), "the protocol's flip is False in one, True in the other"),
    (protocol(metrics=[]), "the protocol's metrics"),
    ({"dataset": {"name": "folder", "train": "t", "val": "other"}}, "their images are different files"),
    ({"inputs": "other"}, "the inputs made of their images are different"),
]


@pytest.mark.parametrize(
    ("of", "changes", "words"),
    [
        (of, changes, words)
        for of in ("compare", "table", "experiment")
        for changes, words in APART
        # In an experiment each task has its own group.
        if of != "experiment" or "task" not in changes
    ],
)
def test_records_that_do_not_compare_are_refused_everywhere(
    of: str, changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = kept(tmp_path, record(PSNR), record(PSNR), record(PSNR, **changes))
    if of == "experiment":
        cells = [Cell(str(place), 0, run := run_in(place), run) for place in places]
        found = collect(TABLE, cells).own
        assert [isinstance(entry, dict) for entry in found.values()] == [True, True, False]
        stray = found[str(places[2]), 0]
        assert isinstance(stray, Failure)
        message = stray.reason
        assert str(places[2]) in message
    else:
        with pytest.raises(SystemExit, match="2"):
            cli.main([of, str(places[0]), str(places[2])])
        message = capsys.readouterr().err
    assert words in message
    assert message.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"timesteps": [2, 4]}, "stage 2, time steps 2,4"),
        ({"tlc_window": 96}, "stage 2, TLC 96"),
        ({"dataset": {"name": "folder", "train": "other", "val": "abc"}}, "stage 2"),
    ],
)
def test_one_run_under_other_settings_compares_and_says_so(
    changes: dict[str, Any], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = kept(tmp_path, record(PSNR), record(PSNR, **changes))
    cli.main(["compare", str(one), str(other)])
    assert f"A: {one} (stage 2)\nB: {other} ({expected})" in capsys.readouterr().out
    cli.main(["table", str(one), str(other)])
    assert f"| {expected} " in capsys.readouterr().out


def test_a_record_is_known_by_its_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = kept(tmp_path, record(PSNR), record(PSNR))
    cli.main(["compare", str(one / "result.json"), str(other)])
    assert f"A: {one / 'result.json'} (stage 2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["compare {old} {new}", "compare {new} {old}/result.json", "table {new} {old}", "eval run={old}"]
)
def test_a_record_of_version_0_1_is_named_with_what_to_do(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_then = record(PSNR)
    del of_then["version"]
    old, new = kept(tmp_path, of_then, record(PSNR))
    with pytest.raises(SystemExit, match="2"):
        cli.main(command.format(old=old, new=new).split())
    line = capsys.readouterr().err
    assert f"{old / 'result.json'} is a record of version 0.1" in line
    assert "train the run anew" in line
    assert line.count("\n") == 1


def kept(folder: Path, *records: dict[str, Any]) -> list[Path]:
    """The records in directories of their own."""
    places = [folder / f"run{number}" for number in range(len(records))]
    for place, entry in zip(places, records, strict=True):
        place.mkdir()
        write_json(place / "result.json", entry)
    return places


# As `kept` leaves them, in a table.
TABLE = Experiment("small", "rows", "deblur", [], [Column("", "parameters", "Size")], [])


def run_in(place: Path) -> Run:
    before = Run("train", "s1", place.parent / "s1", (), "deblur", "pretrain", "demo", 0, config_hash="89abcdef")
    return Run("train", place.name, place, (), "deblur", "joint", "demo", 0, before, "01234567")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"per_image": [{"name": "a", "psnr": 1.0}]}, r"other lacks 5 \(b, c, d, \.\.\.\)"),
        ({"per_image": [{"name": name, "psnr": 1.0} for name in "abcdefg"]}, r"one lacks 1 \(g\)"),
        ({"per_image": []}, "other lacks 6"),
    ],
)
def test_records_of_other_images_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        comparison(record(PSNR), record(PSNR, **changes), NAMES)
    assert "\n" not in str(caught.value)


def test_a_score_must_be_of_the_same_images() -> None:
    one = record([1.0, 2.0])
    other = copy.deepcopy(one)
    del other["per_image"][1]["psnr"]
    with pytest.raises(UserError, match=r"images with psnr must be the same on both sides: other lacks 1 \(b\)"):
        comparison(one, other, NAMES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "compare needs two runs"),
        (["a"], "compare needs two runs"),
        (["a", "b", "c"], "compare needs two runs"),
        (["a", "b"], "a has no result.json"),
        (["a", "b", "output=c.txt"], "ends in .json"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["compare", *arguments])
    line = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not a readable JSON file"), ("[]", "holds no scores of each image")]
)
def test_files_without_scores_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_scores(file)
