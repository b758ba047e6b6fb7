"""`diffi2i compare`: the table of two records; and what does not compare, here and in every other command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffi2i import cli
from diffi2i.errors import UserError
from diffi2i.run.record import Record, Score
from diffi2i.tables.compare import comparison
from tests.records import kept, of_folders, record, scored
from tests.refusals import command_refusal
from tests.unit.test_record import APART

NAMES = ["one", "other"]


def cells(printed: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run directory and a JSON file."""
    run, file = tmp_path / "run0", tmp_path / "scores.json"
    # `rmse` stands for a score that is to be low.
    first = scored(psnr=[20.0, 22.0, 24.0, 26.0], rmse=[1.0, 1.0, 1.0, 1.0])
    second = scored(psnr=[21.0, 23.5, 24.0, 25.5], rmse=[0.8, 0.9, 1.0, 0.9])
    for each in (first, second):
        each["scores"]["fid"] = Score(12.0, 4096)
    first["scores"]["psnr"] = replace(first["scores"]["psnr"], gains={"prior_dependence": 0.1})
    kept(tmp_path, record(**first))
    # A score of folders says nothing of a run, and its images may be in another order.
    second["images"].reverse()
    of_folders(record(), **second).write(file)
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
    other = record(scores={"psnr": Score(None, 0)}, images=[{"name": "a"}, {"name": "b"}])
    found = comparison(record(**scored(psnr=[1.0, 2.0])), other, NAMES)
    assert found["metrics"]["psnr"] == {"a": 1.5, "b": None, "difference": None}


def test_infinite_scores_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [tmp_path / "a.json", tmp_path / "b.json"]
    for place, values in zip(places, ([20.0, float("inf")], [float("inf"), float("inf")]), strict=True):
        record(**scored(psnr=values)).write(place)
    cli.main(["compare", *map(str, places), f"output={tmp_path / 'c.json'}"])
    assert cells(capsys.readouterr().out)["PSNR ↑"][3:] == ["", "1", "0", "1", "1"]
    assert json.loads((tmp_path / "c.json").read_text())["metrics"]["psnr"]["difference"] == "inf"


SIX = scored(psnr=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


@pytest.mark.parametrize("command", ["compare", "table"])
@pytest.mark.parametrize(("changes", "words"), APART)
def test_records_that_do_not_compare_are_refused(
    command: str, changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = kept(tmp_path, record(**SIX), record(**SIX, **changes))
    assert words in command_refusal([command, *map(str, places)], capsys)


@pytest.mark.parametrize(
    "changes", [{"label": "stage 2, time steps 2,4", "settings": ["timesteps=[2,4]"]}, {"train": "other"}]
)
def test_one_run_under_other_settings_compares_and_says_so(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = kept(tmp_path, record(**SIX), record(**SIX, **changes))
    expected = changes.get("label", "stage 2")
    cli.main(["compare", str(one), str(other)])
    assert f"A: {one} (stage 2)\nB: {other} ({expected})" in capsys.readouterr().out
    cli.main(["table", str(one), str(other)])
    assert f"| {expected} " in capsys.readouterr().out


def test_scored_folders_have_no_place_in_a_table_of_runs(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = command_refusal(["table", *map(str, runs)], capsys)
    assert f"{runs[1]} holds scores of folders, not of a run: write diffi2i compare" in line


def test_a_record_is_known_by_its_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = kept(tmp_path, record(**SIX), record(**SIX))
    cli.main(["compare", str(one / "result.json"), str(other)])
    assert f"A: {one / 'result.json'} (stage 2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["compare {old} {new}", "compare {new} {old}/result.json", "table {new} {old}", "eval run={old}"]
)
def test_a_record_of_version_0_1_is_named_with_what_to_do(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = kept(tmp_path, record(**SIX), record(**SIX))
    of_then = json.loads((old / "result.json").read_text())
    del of_then["version"]
    (old / "result.json").write_text(json.dumps(of_then))
    line = command_refusal(command.format(old=old, new=new).split(), capsys)
    assert f"{old / 'result.json'} is a record of version 0.1" in line
    assert "train the run anew" in line


def named(names: str) -> list[dict[str, str | float]]:
    return [{"name": name, "psnr": 1.0} for name in names]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (named("a"), r"other lacks 5 \(b, c, d, \.\.\.\)"),
        (named("abcdefg"), r"one lacks 1 \(g\)"),
        ([], "other lacks 6"),
    ],
)
def test_records_of_other_images_are_refused(images: list[dict[str, str | float]], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        comparison(record(**SIX), record(**SIX | {"images": images}), NAMES)
    assert "\n" not in str(caught.value)


def test_records_without_images_are_refused() -> None:
    empty: Record = record(images=[])
    with pytest.raises(UserError, match="one and other do not compare: no image was scored"):
        comparison(empty, empty, NAMES)


def test_a_score_must_be_of_the_same_images() -> None:
    one = record(**scored(psnr=[1.0, 2.0]))
    other = replace(one, images=[one.images[0], {"name": "b"}])
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
    assert words in command_refusal(["compare", *arguments], capsys)
