"""`diffi2i dashboard`: the W&B project's dashboards as code: a workspace for each task, and one report.

Both have the same panels: validation curves, bars of the final scores by row, cost against quality, pictures. What they
show is what `tracking` and the callbacks log. Their specifications are always written as JSON; with a W&B key they are
also sent.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import wandb

from diffi2i.callbacks.showcase import KEY as PICTURES
from diffi2i.config import compose
from diffi2i.config.commands import DashboardConfig
from diffi2i.config.schema import Config, TaskConfig
from diffi2i.errors import UserError
from diffi2i.files import inside, write_json
from diffi2i.metrics.spec import COLUMNS, METRICS, of_kind
from diffi2i.run.rows import table_names
from diffi2i.tables import experiment

try:
    import wandb_workspaces.expr as ex
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
except ModuleNotFoundError as error:
    raise UserError("dashboard needs the package wandb-workspaces: pip install 'diffi2i[dashboard]'") from error

X = "trainer/global_step"


def dashboard(settings: DashboardConfig) -> None:
    """Writes `workspace_spec.json` and `report_spec.json`; with a W&B key also sends them and prints their addresses.

    W&B makes new views each time: earlier ones stay until they are deleted there.

    Raises:
        UserError: W&B cannot be had; the files are there all the same.
    """
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    # Without an owner: a report's runs would be looked up at W&B.
    tasks, unowned = shipped_tasks(), replace(settings, entity=None)
    write_json(inside(output, "workspace_spec.json"), {task.name: spec(workspace(task, unowned)) for task in tasks})
    write_json(inside(output, "report_spec.json"), spec(report(tasks, unowned)))
    print(f"wrote {output / 'workspace_spec.json'} and {output / 'report_spec.json'}")
    try:
        if not wandb.login(prompt=False, verify=False):
            print("not sent, no W&B key: after `wandb login` give the same command again")
            return
        send(tasks, settings)
    except Exception as error:  # W&B's client has no common one
        raise UserError(f"W&B: {str(error).splitlines()[0]}; the files in {output} are written") from error


def send(tasks: Sequence[TaskConfig], settings: DashboardConfig) -> None:
    """Saves all of them in the project, which is made if need be. Raises what W&B's client raises."""
    api = wandb.Api()
    entity = settings.entity or api.default_entity
    if not entity:
        raise ValueError("the key has no owner of its own: write entity=<team or user>")
    owned = replace(settings, entity=entity)
    api.create_project(owned.project, entity)
    for task in tasks:
        print(f"{task.name}: {workspace(task, owned).save().url}")
    print(f"report: {report(tasks, owned).save().url}")


def shipped_tasks() -> list[TaskConfig]:
    """Every task of `conf/task`, at the default scale."""
    names = sorted(file.stem for file in (compose.conf_dir() / "task").glob("*.yaml"))
    return [compose.load(Config, "train", [f"task={name}"]).task for name in names]


def metrics_of(task: TaskConfig) -> list[str]:
    """The scores that a task's runs can have, the one that counts first."""
    listed = task.protocol.metrics or of_kind(task.kind)
    return [task.main_metric, *(metric for metric in listed if metric != task.main_metric)]


def workspace(task: TaskConfig, settings: DashboardConfig) -> Any:
    """The task's saved view: its runs alone, by table and row, and its panels in sections."""
    return ws.Workspace(
        entity=settings.entity or "",
        project=settings.project,
        name=f"DiffI2I {task.name}",
        sections=[
            ws.Section(name=name, panels=panels, is_open=True, layout_settings=ws.SectionLayoutSettings(columns=3))
            for name, panels in panels_of(task).items()
        ],
        settings=ws.WorkspaceSettings(x_axis=X, max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=ex.And(runs_of(task)),
            groupby=[ex.Metric("Group"), ex.Metric("JobType")],
            pinned_columns=[f"summary:final/{metric}" for metric in [*metrics_of(task), "prior_dependence"]],
        ),
    )


def runs_of(task: TaskConfig) -> Any:
    """The filter for a task's runs. W&B keeps each key of a run's configuration under `value`."""
    return ex.Config("task.value.name") == task.name


def panels_of(task: TaskConfig) -> dict[str, list[Any]]:
    """The panels of a task's runs, by section."""
    metrics = metrics_of(task)
    final = wr.SummaryMetric(f"final/{task.main_metric}")
    costs = {"seconds_per_image": "seconds per image", "parameters": "parameters", "macs": "multiply-accumulates"}
    return {
        "Validation": [curve(metric) for metric in [*metrics, "prior_dependence"]],
        "Training": [wr.LinePlot(title=key, x=X, y=[key], log_y=True) for key in ("train/loss", "train/loss_prior")],
        "Ablation": [bars(metric) for metric in [*metrics, "prior_dependence"]],
        "Runtime against quality": [
            wr.ScatterPlot(
                title=f"{METRICS[task.main_metric].titled} against {words}",
                x=wr.SummaryMetric(f"final/{key}"),
                y=final,
                log_x=True,
            )
            for key, words in costs.items()
        ],
        "Pictures": [
            wr.MediaBrowser(title="during training", media_keys=[PICTURES], num_columns=1),
            wr.MediaBrowser(title="final evaluation", media_keys=["final/panel"], num_columns=1),
        ],
    }


def curve(metric: str) -> Any:
    """A score during training, on whichever dataset: `val/<dataset>/<metric>`."""
    return wr.LinePlot(title=COLUMNS[metric].titled, x=X, metric_regex=f"^val/[^/]+/{metric}$")


def bars(metric: str) -> Any:
    """The final score of each row, the mean over its seeds, with their standard deviation."""
    return wr.BarPlot(
        title=COLUMNS[metric].titled,
        metrics=[f"final/{metric}"],
        groupby=wr.Metric("JobType"),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
    )


def report(tasks: Sequence[TaskConfig], settings: DashboardConfig) -> Any:
    """One report: the bars of each table and figure, then each task's panels."""
    blocks: list[Any] = [
        wr.P("Runs are grouped by table (group) and row (job type). Numbers of different scales do not compare."),
        wr.TableOfContents(),
        wr.H1("Tables and figures"),
    ]
    by_name = {task.name: task for task in tasks}
    for name in table_names():
        shown = experiment.load(name)
        keys = list(dict.fromkeys(column.metric for column in shown.columns))
        if shown.task in by_name:
            keys = list(dict.fromkeys([*keys, by_name[shown.task].main_metric]))
        runs = runset(settings, name, ex.Metric("Group") == name)
        blocks += [wr.H2(f"{name}: {shown.title}"), wr.PanelGrid(runsets=[runs], panels=[bars(key) for key in keys])]
    blocks.append(wr.H1("Tasks"))
    for task in tasks:
        runs = runset(settings, task.name, runs_of(task))
        blocks.append(wr.H2(task.name))
        for section, panels in panels_of(task).items():
            blocks += [wr.H3(section), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(
        project=settings.project, entity=settings.entity or "", title="DiffI2I", blocks=blocks, width="fluid"
    )


def runset(settings: DashboardConfig, name: str, kept: Any) -> Any:
    """The runs that pass the filter, by table and row."""
    return wr.Runset(
        entity=settings.entity or "",
        project=settings.project,
        name=name,
        filters=ex.And(kept),
        groupby=["run.group", "run.jobType"],
    )


def spec(view: Any) -> dict[str, Any]:
    """What W&B would store."""
    stored: dict[str, Any] = view._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    return stored
