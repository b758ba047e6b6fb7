"""Sweeps: each launcher really runs, DDP inside, failures, the search, and what is refused before anything starts."""

import pickle
import subprocess
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from diffi2i.commands import sweep
from diffi2i.errors import UserError
from diffi2i.run.record import Record
from tests.conftest import SMALL
from tests.processes import begun, diffi2i

TRAIN = (*SMALL, "task=sisr", "train.steps=2", "task.protocol.metrics=[psnr,psnr_y]")

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*validated against ConfigStore schema with the same name")


def needs(plugin: str) -> pytest.MarkDecorator:
    there = find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{plugin}") is not None
    return pytest.mark.skipif(not there, reason=f"{plugin.replace('_', '-')} is not installed (diffi2i[launchers])")


joblib = needs("hydra_joblib_launcher")
submitit = needs("hydra_submitit_launcher")
ray = needs("hydra_ray_launcher")
optuna = needs("hydra_optuna_sweeper")


def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"  # Ray keeps a token there
    home.mkdir(exist_ok=True)
    return {"DIFFI2I_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(home)}


def train_sweep(images: Path, tmp_path: Path, *overrides: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = (*TRAIN, f"root={images}", *overrides)
    return diffi2i("train", "-m", *settings, cwd=tmp_path, **environment(tmp_path), **more)


def records(folder: Path) -> dict[int | None, Record]:
    """The records below a folder by seed."""
    found = map(Record.read, folder.rglob("result.json"))
    return {record.seed: record for record in found}


def occupy(folder: Path) -> None:
    """Training refuses this folder, with status 2, which only the run itself can find out."""
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("not a run")


def test_a_failed_run_gives_the_sweep_its_status_and_the_others_go_on(images: Path, tmp_path: Path) -> None:
    occupy(tmp_path / "runs" / "0")
    # As inside an allocation of two tasks, whose second nobody starts.
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}
    answer = train_sweep(images, tmp_path, "run_dir=runs/${seed}", "seed=0,1", **slurm)
    assert answer.returncode == 2, answer.stderr
    lines = [line for line in answer.stderr.splitlines() if line.startswith("diffi2i:")]
    assert "runs/0 is not empty" in lines[0]
    assert lines[1].startswith("diffi2i: run 0 ended with status 2: diffi2i train budget=smoke")
    assert "seed=0" in lines[1]
    assert len(lines) == 2
    assert "Traceback" not in answer.stderr
    assert records(tmp_path).keys() == {1}


@joblib
@pytest.mark.long
def test_joblib_runs_two_at_a_time_each_with_ddp(images: Path, tmp_path: Path) -> None:
    ddp = ("trainer.devices=2", "trainer.device_batch=1")
    places = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "run_dir=runs/${seed}")
    answer = train_sweep(images, tmp_path, *ddp, *places, "seed=0,1")
    assert answer.returncode == 0, answer.stderr
    found = records(tmp_path)
    assert found.keys() == {0, 1}
    assert all(record.training and record.training.steps == 2 for record in found.values())
    (second,) = tmp_path.glob("outputs/multirun/*/1")  # made when the launcher starts the run
    assert second.stat().st_mtime < (tmp_path / "runs" / "0" / "result.json").stat().st_mtime


@submitit
@pytest.mark.long
def test_submitit_runs_jobs_without_slurm(images: Path, tmp_path: Path) -> None:
    occupy(tmp_path / "runs" / "4")
    answer = train_sweep(images, tmp_path, "hydra/launcher=submitit_local", "run_dir=runs/${seed}", "seed=3,4")
    assert answer.returncode == 2, answer.stderr
    assert records(tmp_path).keys() == {3}
    (folder,) = tmp_path.glob("outputs/multirun/*/.submitit")
    lines = [line for line in answer.stderr.splitlines() if line.startswith("diffi2i:")]
    assert lines[0].startswith("diffi2i: run 1 ended with status 2: diffi2i train")
    assert lines[1:] == [f"diffi2i: what the runs printed is in {folder}"]
    printed = [log.read_text() for log in sorted(folder.glob("*/*_log.out"))]
    assert any("training diffi2i_s1 of sisr" in text for text in printed)
    assert any("runs/4 is not empty" in text for text in printed)


@ray
@pytest.mark.long
def test_ray_runs_tasks_on_this_machine(images: Path, tmp_path: Path) -> None:
    answer = train_sweep(images, tmp_path, "hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=1", "seed=4")
    if "timed out during startup" in answer.stderr:
        pytest.skip("Ray did not start within its own 30 seconds: this machine is too busy")
    assert answer.returncode == 0, answer.stderr
    assert records(tmp_path).keys() == {4}


@optuna
def test_optuna_finds_the_best_of_its_trials(images: Path, tmp_path: Path) -> None:
    study = ("hydra/sweeper=optuna_lr", "hydra.sweeper.n_trials=2", "task.main_metric=psnr")
    answer = train_sweep(images, tmp_path, *study)
    assert answer.returncode == 0, answer.stderr
    values = [Record.read(file).scores["psnr"].value or 0 for file in tmp_path.rglob("result.json")]
    assert len(set(values)) == 2
    (file,) = tmp_path.rglob("optimization_results.yaml")
    result: Any = OmegaConf.load(file)
    assert result.best_value == max(values)
    assert result.best_params.keys() == {"train.lr", "train.ema_decay"}


@optuna
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=depth"], "direction=maximize makes rmse worse: write minimize"),
        (["hydra.sweeper.params={train.lr: 'interval(-1.0, 1.0)'}"], "train.lr=-1.0 must be above 0"),
        (["train.steps=choice(10,0)"], "train.steps=0 trains nothing: write 1 or more"),
        (["train.rate=interval(0.0,1.0)"], "unknown key 'train.rate'"),
    ],
)
def test_a_search_is_checked_before_its_first_trial(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        sweep.check(["hydra/sweeper=optuna_lr", *overrides])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["hydra/launcher=jobleb"], "hydra/launcher= one of joblib, ray, submitit_local, submitit_slurm"),
        (
            ["hydra.launcher._target_=hydra_plugins.hydra_absent_launcher.Absent"],
            r"is not installed: pip install 'diffi2i\[launchers\]'",
        ),
        (["run_dir=one", "seed=0,1"], r"as in 'run_dir=runs/\$\{seed\}'"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2 of a sweep needs hydra/launcher=submitit_slurm"),
        (["seed=0,1", "train.steps=[1"], r"cannot read 'train.steps=\[1'"),
        pytest.param(["hydra/launcher=ray"], "write trainer=cpu or trainer.accelerator=gpu", marks=ray),
        pytest.param(
            ["hydra/launcher=ray", "trainer=cpu", "trainer.devices=1,2"], "sweep over trainer in separate", marks=ray
        ),
        pytest.param(
            ["hydra/launcher=submitit_slurm", "trainer.devices=2", "experiment=table7/v1,table7/v3"],
            "starts from inpainting-diffi2i_s1-.* or write hydra.launcher.tasks_per_node=1",
            marks=submitit,
        ),
    ],
)
def test_what_a_sweep_cannot_do_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        sweep.check(overrides)
    assert "\n" not in str(caught.value)


@submitit
def test_a_slurm_job_has_a_task_and_a_gpu_for_each_rank() -> None:
    several = ["hydra/launcher=submitit_slurm", "trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2"]
    launcher = sweep.hydra_node(several).launcher
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (2, 4, 4)
    sweep.check([*several, "train.batch=8", "seed=0,1"])
    without = sweep.hydra_node(["hydra/launcher=submitit_slurm", "trainer=cpu"]).launcher
    assert (without.nodes, without.tasks_per_node, without.gpus_per_node) == (1, 1, None)


@ray
def test_ray_keeps_gpus_for_a_run() -> None:
    gpus = sweep.hydra_node(["hydra/launcher=ray", "trainer=ddp", "trainer.devices=3"]).launcher.ray.remote.num_gpus
    assert gpus == 3


def test_only_a_job_of_several_slurm_tasks_sees_slurm() -> None:
    one, two = ({"HOME": "/h", "SLURM_NTASKS": n, "SLURM_PROCID": "0"} for n in "12")
    assert sweep.environment(two, slurm=True) == two
    assert sweep.environment(two, slurm=False) == {"HOME": "/h"}
    assert sweep.environment(one, slurm=True) == {"HOME": "/h"}


def test_two_slurm_tasks_are_the_ranks_of_one_run(images: Path, tmp_path: Path) -> None:
    """The variables of two tasks on one node, as srun sets them; no Slurm is needed for that."""
    settings = (f"root={images}", "run_dir=run", "trainer.devices=2", "trainer.device_batch=1")
    job = {
        "SLURM_JOB_ID": str(time.monotonic_ns() % 10000),
        "SLURM_JOB_NAME": "diffi2i",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
    }
    tasks = []
    for rank in (0, 1):
        given = environment(tmp_path) | job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        # Lightning looks for its rank when it is imported, as it has been before this fork.
        prepare = partial(setattr, rank_zero_only, "rank", rank)
        tasks.append(begun(("train", *TRAIN, *settings), tmp_path, sweep.environment(given, slurm=True), prepare))
    answers = [task.ended() for task in tasks]
    assert [answer.returncode for answer in answers] == [0, 0], answers
    printed = [answer.stdout for answer in answers]
    assert "training diffi2i_s1" in printed[0]
    assert "training diffi2i_s1" not in printed[1], "the second task is the second rank of the same run"
    assert [record.training and record.training.steps for record in records(tmp_path).values()] == [2]


def test_the_failure_of_a_run_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(sweep.RunFailedError(137, "/sweep")))
    assert (error.status, error.directory) == (137, "/sweep")


def test_an_interval_is_checked_at_both_ends() -> None:
    assert sweep.combinations(["train.lr=interval(1e-4,1e-2)", "seed=1"]) == [
        ["train.lr=0.0001", "seed=1"],
        ["train.lr=0.01", "seed=1"],
    ]
