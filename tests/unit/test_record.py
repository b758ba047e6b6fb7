"""The record: what comes back is what was written, what is no record is refused, and which records compare."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import pytest

from diffi2i.run.record import Record, Score
from tests.records import kept, of_folders, record, scored
from tests.refusals import refusal


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    scores = {
        "psnr": Score(inf, 2, baseline=-inf, gains={"prior_dependence": inf}, why_not="an image has an infinite score"),
        "lpips_alex": Score(None, 0, why_not="no weights"),
        "ssim": Score(0.5, 2, 0.4, 0.6, 0.3),
    }
    # A picture may be called as infinity is written, and one may lack a score.
    images: list[dict[str, str | float]] = [{"name": "inf", "psnr": inf}, {"name": "nan", "psnr": -inf, "ssim": 0.5}]
    made = record(scores=scores, images=images, baseline_images=images, classes=[0.5, None], constant=3.0)
    for place, written in zip(kept(tmp_path, made, of_folders(made)), (made, of_folders(made)), strict=True):
        json.loads((place / "result.json").read_text(), parse_constant=lambda word: pytest.fail(f"no JSON: {word}"))
        assert Record.read(place) == written
        assert Record.read(place / "result.json") == written
        assert [path.name for path in place.iterdir()] == ["result.json"]


def test_nan_comes_back_as_a_number(tmp_path: Path) -> None:
    scores = {"psnr": Score(nan, 1, gains={"prior_dependence": nan})}
    (place,) = kept(tmp_path, record(scores=scores, images=[{"name": "nan", "psnr": nan}]))
    found = Record.read(place)
    values = (found.scores["psnr"].value, found.scores["psnr"].gains["prior_dependence"], found.images[0]["psnr"])
    assert all(isinstance(value, float) and isnan(value) for value in values)
    assert found.images[0]["name"] == "nan"


def test_a_record_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        record().seed = 1  # type: ignore[misc]


def test_other_programs_find_the_keys_that_the_design_names(tmp_path: Path) -> None:
    (place,) = kept(tmp_path, record())
    found = json.loads((place / "result.json").read_text())
    assert {"version", "task", "budget", "seed", "method", "data", "scores", "cost", "training", "provenance"} <= set(
        found
    )
    assert found["version"] == 3
    assert set(found["scores"]["psnr"]) == {"value", "baseline", "n", "low", "high", "gains", "why_not"}
    costs = "parameters macs calls seconds_per_image cpu_seconds peak_memory_mb measured_at timed_calls"
    assert set(found["cost"]) == set(costs.split())
    assert found["method"]["name"] == "diffi2i_s2"


def written(folder: Path, text: str) -> Path:
    (folder / "result.json").write_text(text)
    return folder


@pytest.mark.parametrize("text", ["", "{", '{"task": ', "\x00"])
def test_damaged_json_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    said = refusal(Record.read, written(tmp_path, text))
    assert said.startswith(f"{tmp_path / 'result.json'} is damaged (")
    assert said.endswith(": delete it and give its command again")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"task"', "{}", '{"a": 1}'])
def test_a_json_file_of_something_else_is_no_record(tmp_path: Path, text: str) -> None:
    assert "result.json is no record: name a run, an eval folder or a JSON of diffi2i score" in refusal(
        Record.read, written(tmp_path, text)
    )


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"\xff\xfe{}")
    assert "is damaged ('utf-8' codec" in refusal(Record.read, tmp_path)


@pytest.mark.parametrize("place", ["nothing", "nothing/result.json", "folder", "scores.json"])
def test_where_there_is_none_it_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    assert "it is no finished run" in refusal(Record.read, tmp_path / place)


@pytest.mark.parametrize(("version", "named"), [(None, "0.1"), (2, "2"), (4, "4"), ("3", "3")])
def test_another_version_says_to_train_anew(tmp_path: Path, version: Any, named: str) -> None:
    (place,) = kept(tmp_path, record())
    of_then = json.loads((place / "result.json").read_text()) | {"version": version}
    if version is None:
        del of_then["version"]
    said = refusal(Record.read, written(place, json.dumps(of_then)))
    assert f"{place / 'result.json'} is a record of version {named}, not 3" in said
    assert "train the run anew, in another run_dir" in said


@pytest.mark.parametrize("key", [field.name for field in fields(Record) if field.name not in ("task", "version")])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    (place,) = kept(tmp_path, record())
    found = json.loads((place / "result.json").read_text())
    del found[key]
    assert f"is damaged ({key}: Field required)" in refusal(Record.read, written(place, json.dumps(found)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("scores", "psnr", "n"), "many"),
        (("scores", "psnr", "value"), "high"),
        (("scores", "psnr", "gains", "prior_dependence"), None),
        (("scores", "psnr"), 30.0),
        (("method", "label"), 3),
        (("method", "init", "weights"), None),
        (("data", "protocol"), []),
        (("cost", "measured_at", 0), 1.5),
        (("training", "changed"), {}),
        (("provenance",), None),
        (("seed",), "first"),
        (("images",), {}),
    ],
)
def test_a_mistyped_key_is_named(tmp_path: Path, path: tuple[str | int, ...], value: Any) -> None:
    (place,) = kept(tmp_path, record())
    found = json.loads((place / "result.json").read_text())
    node = found
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert f"is damaged ({'.'.join(map(str, path))}: " in refusal(Record.read, written(place, json.dumps(found)))


def test_a_score_of_an_image_is_a_number(tmp_path: Path) -> None:
    (place,) = kept(tmp_path, record(images=[{"name": "a", "psnr": "high"}]))
    assert "is damaged (could not convert string to float: 'high')" in refusal(Record.read, place)


def protocol(**changes: Any) -> dict[str, Any]:
    return {"protocol": record().data.protocol | changes}


APART: list[tuple[dict[str, Any], str]] = [
    ({"task": "sisr"}, "the task is deblur in one, sisr in the other"),
    ({"degrade": {"blur": {"size": 5, "noise": 0.2}}}, "the degradation is 0.1 in one, 0.2 in the other"),
    ({"degrade": {"mask": "wide"}}, "the degradation is "),
    ({"degrade": None}, "the degradation is {'blur': {'size': 5, 'noise': 0.1}} in one, None in the other"),
    ({"crop": 32}, "the crop that is scored is 64 in one, 32 in the other"),
    ({"crop": None}, "the crop that is scored is 64 in one, None in the other"),
    (protocol(border=4), "the protocol's border is 0 in one, 4 in the other; score one anew"),
    (protocol(seed=1), "the protocol's seed is 0 in one, 1 in the other"),
    (protocol(flip=True), "the protocol's flip is False in one, True in the other"),
    (protocol(metrics=[]), "the protocol's metrics"),
    (protocol(new=1), "the protocol's new is None in one, 1 in the other"),
    ({"val": "other"}, "their images are different files"),
    ({"inputs": "other"}, "the inputs made of their images are different"),
    ({"inputs": "other", "masks": "hash", "degrade": None}, "their masks are different"),
]


@pytest.mark.parametrize(("changes", "words"), APART)
def test_records_of_other_things_do_not_compare(changes: dict[str, Any], words: str) -> None:
    why = record().comparable(record(**changes))
    assert why is not None
    assert words in why
    assert record(**changes).comparable(record()) is not None


def test_what_the_methods_are_and_were_trained_on_may_differ() -> None:
    other = record(
        name="no_prior", options={}, train="other", dataset="other", seed=1, cost=None, **scored(psnr=[1, 2])
    )
    assert record().comparable(other) is None
    assert record().comparable(record()) is None
    # Masks that were given take the place of the degradation's; the inputs tell that they are equal.
    assert record().comparable(record(masks="hash", degrade=None)) is None


def test_scored_folders_compare_with_a_run_by_task_and_protocol_alone() -> None:
    run, folders = record(), of_folders(record())
    assert run.comparable(folders) is None
    assert folders.comparable(run) is None
    assert folders.comparable(record(task="sisr")) == "the task is deblur in one, sisr in the other"
    assert "border" in str(folders.comparable(record(**protocol(border=4))))
    others = replace(folders, data=replace(folders.data, val="of another folder"))
    assert folders.comparable(others) == "their images are different files"
