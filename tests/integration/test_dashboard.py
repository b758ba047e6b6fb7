"""The dashboards' specifications show what runs really log, and are written also where nothing can be sent."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_workspaces.reports.v2 import Report
from wandb_workspaces.workspaces import Workspace

from diffi2i import cli
from diffi2i.commands import dashboard, train
from diffi2i.config.commands import DashboardConfig
from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.run.rows import table_names
from diffi2i.tables import experiment
from tests import wandb_files
from tests.conftest import small
from tests.settings import TASKS

# They need weights that may be missing, or a look at more images than two.
DEAR = {"lpips_alex", "lpips_vgg", "dists", "fid", "kid", "fd_lite0"}


@pytest.fixture(scope="module", autouse=True)
def no_key(tmp_path_factory: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        wandb_files.forget_key(patch, tmp_path_factory.mktemp("home"))
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("dashboard")
    dashboard.dashboard(DashboardConfig(output=str(folder), entity="team"))
    return folder


@pytest.fixture(scope="module")
def workspaces(written: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((written / "workspace_spec.json").read_text())
    return found


@pytest.fixture(scope="module")
def report(written: Path) -> Any:
    return json.loads((written / "report_spec.json").read_text())


def sections(workspace: Any) -> dict[str, list[Any]]:
    return {item["name"]: item["panels"] for item in workspace["section"]["panelBankConfig"]["sections"]}


def of_type(panels: list[Any], kind: str) -> list[Any]:
    return [panel["config"] for panel in panels if panel["viewType"] == kind]


def text(block: Any) -> str:
    return "".join(child.get("text", "") for child in block.get("children", []))


def grids(report: Any, heading: str) -> list[Any]:
    """The panel grids below a heading of the second level."""
    found, inside = [], False
    for block in report["blocks"]:
        if block["type"] == "heading" and block["level"] <= 2:
            inside = text(block).split(":")[0] == heading
        elif block["type"] == "panel-grid" and inside:
            found.append(block["metadata"])
    return found


@pytest.fixture(scope="module")
def logged(images: Path, tmp_path_factory: Any) -> dict[str, wandb_files.Run]:
    """An offline stage-2 run of one task of each kind, read back."""
    folder, runs = tmp_path_factory.mktemp("runs"), {}
    for task in ("inpainting", "segmentation", "depth"):
        for method in ("diffi2i_s1", "diffi2i_s2"):
            settings = [*small(task, images), f"method={method}", f"run_dir={folder / task / method}"]
            if task != "inpainting":
                settings.append("train.patch=64")
            if method == "diffi2i_s2":
                settings += [f"method.init={folder / task / 'diffi2i_s1'}", "logger=wandb"]
            train.train(load(Config, "train", settings))
        runs[task] = wandb_files.read(wandb_files.parts(folder / task / "diffi2i_s2")[0])
    return runs


def test_every_task_has_its_sections(workspaces: dict[str, Any]) -> None:
    assert sorted(workspaces) == TASKS
    for workspace in workspaces.values():
        found = sections(workspace)
        assert list(found) == ["Validation", "Training", "Ablation", "Runtime against quality", "Pictures"]
        assert all(found.values())


@pytest.mark.parametrize("task", ["inpainting", "segmentation", "depth"])
def test_the_panels_show_what_runs_log(workspaces: Any, logged: dict[str, wandb_files.Run], task: str) -> None:
    run, found = logged[task], sections(workspaces[task])
    rows = {key for row in run.history for key in row}
    for curve in of_type(found["Validation"], "Run History Line Plot"):
        assert curve["xAxis"] == "trainer/global_step" in rows
        metric = curve["metricRegex"].rpartition("/")[2].rstrip("$")
        assert metric in DEAR or any(re.search(curve["metricRegex"], key) for key in rows), curve
    # Both kinds of loss, of a stage 2.
    assert {key for panel in of_type(found["Training"], "Run History Line Plot") for key in panel["metrics"]} <= rows
    bars = {key for panel in of_type(found["Ablation"], "Bar Chart") for key in panel["metrics"]}
    assert bars - {f"final/{metric}" for metric in DEAR} <= run.summary.keys()
    for scatter in of_type(found["Runtime against quality"], "Scatter Plot"):
        for axis in ("xAxis", "yAxis"):
            key = scatter[axis].removeprefix("summary:")
            assert key.removeprefix("final/") in DEAR or key in run.summary
    pictures = {key for panel in of_type(found["Pictures"], "Media Browser") for key in panel["mediaKeys"]}
    assert {"panels", "final/panel"} == pictures
    assert all(f"{key}._type" in run.summary for key in pictures)


@pytest.mark.parametrize("task", ["inpainting", "segmentation", "depth"])
def test_every_score_of_a_run_has_its_panel(workspaces: Any, logged: dict[str, wandb_files.Run], task: str) -> None:
    run, found = logged[task], sections(workspaces[task])
    expressions = [panel["metricRegex"] for panel in of_type(found["Validation"], "Run History Line Plot")]
    scores = {key for row in run.history for key in row if key.startswith("val/")}
    assert scores
    for key in scores:
        assert sum(bool(re.search(expression, key)) for expression in expressions) == 1, key


def test_the_first_score_is_the_one_that_counts(workspaces: Any) -> None:
    for task in dashboard.shipped_tasks():
        found = sections(workspaces[task.name])
        assert found["Ablation"][0]["config"]["metrics"] == [f"final/{task.main_metric}"]
        assert found["Runtime against quality"][0]["config"]["xAxis"] == "summary:final/seconds_per_image"
        assert found["Runtime against quality"][0]["config"]["yAxis"] == f"summary:final/{task.main_metric}"


def test_a_workspace_holds_its_task_by_table_and_row(workspaces: Any, logged: dict[str, wandb_files.Run]) -> None:
    for task in TASKS:
        (runs,) = workspaces[task]["section"]["runSets"]
        (kept,) = runs["filters"]["filters"]
        assert kept["key"] == {"section": "config", "name": "task.value.name"}
        assert (kept["op"], kept["value"]) == ("=", task)
        assert [key["name"] for key in runs["grouping"]] == ["group", "jobType"]
        for bar in of_type(sections(workspaces[task])["Ablation"], "Bar Chart"):
            assert (bar["groupBy"], bar["groupAgg"]) == ("jobType", "mean")
    assert all(run.config["task"]["name"] == task for task, run in logged.items())


def test_the_report_has_every_table_by_row(report: Any) -> None:
    for name in table_names():
        (grid,) = grids(report, name)
        (runs,) = grid["runSets"]
        (kept,) = runs["filters"]["filters"]
        assert kept["key"] == {"section": "run", "name": "group"}
        assert (kept["op"], kept["value"]) == ("=", name)
        bars = of_type(grid["panelBankSectionConfig"]["panels"], "Bar Chart")
        shown = {bar["metrics"][0] for bar in bars}
        assert {f"final/{column.metric}" for column in experiment.load(name).columns} <= shown
        assert {bar["groupBy"] for bar in bars} == {"jobType"}


def test_the_report_has_every_task(report: Any) -> None:
    for task in TASKS:
        found = grids(report, task)
        assert len(found) == 5
        kinds = {panel["viewType"] for grid in found for panel in grid["panelBankSectionConfig"]["panels"]}
        assert kinds == {"Run History Line Plot", "Bar Chart", "Scatter Plot", "Media Browser"}
        assert {grid["runSets"][0]["filters"]["filters"][0]["value"] for grid in found} == {task}


def test_without_a_key_it_says_how_to_send(tmp_path: Path, capsys: Any) -> None:
    cli.main(["dashboard", "project=mine", f"output={tmp_path}"])
    out = capsys.readouterr().out
    assert "after `wandb login` give the same command again" in out
    assert {file.name for file in tmp_path.iterdir()} == {"workspace_spec.json", "report_spec.json"}


def test_with_a_key_all_are_sent_to_their_owner(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    saved = []

    class Api:
        default_entity = "me"

        def create_project(self, name: str, entity: str) -> None:
            saved.append(("project", entity, name))

    def save(self: Any) -> Any:
        saved.append((type(self).__name__, self.entity, self.project))
        return self

    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "Api", Api)
    for kind in (Workspace, Report):
        monkeypatch.setattr(kind, "save", save)
        monkeypatch.setattr(kind, "url", property(lambda self: f"https://example.org/{self.entity}/{self.project}"))
    dashboard.dashboard(DashboardConfig(project="mine", output=str(tmp_path)))
    assert saved == [("project", "me", "mine"), *[("Workspace", "me", "mine")] * len(TASKS), ("Report", "me", "mine")]
    assert capsys.readouterr().out.count("https://example.org/me/mine") == len(TASKS) + 1


def test_a_refusal_is_one_line_and_the_files_are_there(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def refused(**_: Any) -> bool:
        raise wandb.errors.AuthenticationError("no such key\nand more")

    monkeypatch.setattr(wandb, "login", refused)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["dashboard", f"output={tmp_path}"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"diffi2i: W&B: no such key; the files in {tmp_path} are written\n"
    assert len(list(tmp_path.iterdir())) == 2
