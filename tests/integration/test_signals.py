"""Stopped by a signal anywhere: its exit status, one true line, nothing half done, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from diffi2i.callbacks import last
from diffi2i.callbacks.ranks import SameRun
from diffi2i.callbacks.scores import ValidationScores
from diffi2i.commands import eval as evaluation
from diffi2i.commands import predict, score, train
from diffi2i.config.schema import Config, DatasetConfig, ModelConfig, TrainerConfig
from diffi2i.data import check, prepare
from diffi2i.methods.method import Method
from diffi2i.run import checkpoints
from diffi2i.run.hardware import is_of_others, new_trainer
from diffi2i.run.state import checkpoints_of
from tests.conftest import small
from tests.processes import begun, diffi2i, joined, prepared, together
from tests.refusals import refusal
from tests.runs import repeatable, weight_bytes
from tests.settings import task_config, train_config

STEPS = ("train.steps=6", "train.epoch_steps=3", "validation.every_epochs=1")


def signalled(owner: Any, name: str, number: int, when: Callable[..., bool] = lambda *_: True) -> Callable[[], None]:
    """Makes `owner.name` send this process a signal first, once, at the first call `when` says so."""

    def prepare() -> None:
        go_on, sent = getattr(owner, name), list[int]()

        def kills(*arguments: Any, **named: Any) -> Any:
            if not sent and when(*arguments):
                sent.append(number)
                os.kill(os.getpid(), number)
            return go_on(*arguments, **named)

        setattr(owner, name, kills)

    return prepare


IN_TRAINING: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "a step": (Method, "training_step", lambda self, *_: self.global_step == 4),
    "validation": (ValidationScores, "on_validation_batch_end", lambda self, *_: self.pictures is None),
    "the checkpoint": (last.LastCheckpoint, "on_train_epoch_end", lambda *_: True),
    "the weights": (train, "save_weights", lambda *_: True),
    "the final scores": (ValidationScores, "on_validation_batch_end", lambda self, *_: self.pictures is not None),
    "its cost": (evaluation, "cost", lambda *_: True),
}


@pytest.fixture(scope="module")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert diffi2i("train", *small("sisr", images, "no_prior"), *STEPS, "run_dir=run", cwd=folder).returncode == 0
    return folder / "run"


@pytest.mark.parametrize("place", IN_TRAINING)
def test_a_training_that_is_stopped_says_so_and_goes_on(
    place: str, images: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    number = signal.SIGINT if place in ("a step", "the final scores") else signal.SIGTERM
    command = ("train", *small("sisr", images, "no_prior"), *STEPS, "run_dir=run")
    answer = prepared(signalled(*IN_TRAINING[place][:2], number, IN_TRAINING[place][2]), *command, cwd=tmp_path)
    assert answer.returncode == 128 + number
    word = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    assert answer.stderr == f"diffi2i: {word}; give the same command again to go on\n"
    assert not (tmp_path / "run" / "result.json").exists()
    assert diffi2i(*command, cwd=tmp_path).returncode == 0
    assert weight_bytes(tmp_path / "run") == weight_bytes(uninterrupted)
    assert repeatable(tmp_path / "run") == repeatable(uninterrupted)


def test_the_other_commands_too(images: Path, tmp_path: Path, uninterrupted: Path) -> None:
    pictures = str(uninterrupted / "images")
    commands: list[tuple[tuple[str, ...], Any, str]] = [
        (("eval", f"run={uninterrupted}", "output=e", "trainer=cpu"), ValidationScores, "on_validation_batch_end"),
        (("predict", f"run={uninterrupted}", f"input={images}", "output=p", "trainer=cpu"), predict, "restore"),
        (("score", "task=sisr", f"pred={pictures}", f"target={pictures}", "output=s.json"), score, "paired"),
        (("data", "check", "dataset=folder", f"root={images}", "output=m.json"), check, "_check_split"),
        (("data", "prepare", "downsample", f"input={images}", "output=d"), prepare, "write_photo"),
    ]
    for command, owner, name in commands:
        answer = prepared(signalled(owner, name, signal.SIGTERM), *command, cwd=tmp_path)
        assert (answer.returncode, answer.stderr[:27]) == (143, "diffi2i: stopped by SIGTERM"), answer.stderr
        assert not [file for file in tmp_path.rglob("[!.]*") if file.suffix in (".json", ".tmp")]


@pytest.mark.parametrize(("number", "queued"), [(signal.SIGUSR1, True), (signal.SIGUSR2, False)])
def test_slurm_takes_the_machine_away(
    images: Path, tmp_path: Path, uninterrupted: Path, number: int, queued: bool
) -> None:
    """A warning in the midst of an epoch: that step is kept, and the job asks to be started again."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1", "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    command = ("train", *small("sisr", images, "no_prior"), *STEPS, "run_dir=run")
    stop = signalled(Method, "training_step", number, IN_TRAINING["a step"][2])
    answer = prepared(stop, *command, cwd=tmp_path, **slurm)
    assert answer.returncode == 128 + number, answer.stderr
    assert (tmp_path / "asked").exists() == queued
    assert not queued or (tmp_path / "asked").read_text() == "requeue 17\n"
    assert checkpoints.read(checkpoints_of(tmp_path / "run")[0]).steps == 5
    assert sorted(file.name for file in (tmp_path / "run").iterdir() if "ckpt" in file.name) == []
    assert diffi2i(*command, cwd=tmp_path).returncode == 0
    assert weight_bytes(tmp_path / "run") == weight_bytes(uninterrupted)
    assert repeatable(tmp_path / "run") == repeatable(uninterrupted)


def test_a_process_that_does_not_stop_is_ended(tmp_path: Path) -> None:
    """The main thread waits in C, where Python calls no handler."""
    code = (
        "import ctypes, diffi2i.run.signals as s; s.LIMIT_SECONDS = 0.2; s.listen(); s.bound(); print(1, flush=True); "
        "c, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64); [c.pthread_mutex_lock(mutex) for _ in (1, 2)]"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1)  # until it waits
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143


def test_what_a_forked_process_is_told_does_not_concern_who_forked_it() -> None:
    """A data worker is ended by SIGTERM whenever its loader is."""
    code = (
        "import os, signal, time, diffi2i.run.signals as s; s.LIMIT_SECONDS = 0.1; s.listen(); s.bound()\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(60); os._exit(1)\n"
        "time.sleep(0.5)\n"  # Python drops signals that come while it forks
        "os.kill(child, signal.SIGTERM); print(os.waitpid(child, 0)[1], flush=True); time.sleep(1)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"{signal.SIGTERM.value}\n", "")


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, pathlib, time, diffi2i.run.signals as s\n"
        "def child():\n"
        "  s.WATCH_SECONDS = 0.1; s.listen(); s.watch_parent()\n"
        f"  pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
        "  try: time.sleep(60)\n"
        f"  except KeyboardInterrupt: pathlib.Path({str(tmp_path / 'down')!r}).touch()\n"
        "multiprocessing.get_context('fork').Process(target=child).start(); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(tmp_path / "up")
    finally:
        parent.kill()
        parent.wait()
    wait_for(tmp_path / "down")
    assert (tmp_path / "down").exists()


def wait_for(file: Path, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until, f"no {file.name}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "fault",
    [
        "the second is killed",
        pytest.param("the second is halted", marks=pytest.mark.long),
        "the first is killed",
    ],
)
def test_ranks_end_together_in_one_line(fault: str, images: Path, tmp_path: Path) -> None:
    settings = (*small("sisr", images), "trainer.devices=2", "trainer.device_batch=1", "trainer.timeout=15")
    command = ("train", *settings, "run_dir=run", "train.steps=100000", "train.epoch_steps=100000")
    run = begun(command, tmp_path, {})
    second = wait_for_rank(run.pid)
    time.sleep(8)  # of which the start of the second takes most
    os.kill(run.pid if fault == "the first is killed" else second, HARM[fault])
    start = time.monotonic()
    answer = run.ended()
    while is_alive(second):
        assert time.monotonic() - start < 60, f"the second rank is left behind: {answer}"
        time.sleep(0.1)
    assert time.monotonic() - start < 60
    assert answer.returncode == (-9 if fault == "the first is killed" else 1), answer.stderr
    assert "Traceback" not in answer.stderr
    lines = [line for line in answer.stderr.splitlines() if line.startswith("diffi2i:")]
    # Of the second, whether it first finds out that the other is gone or is told so.
    assert len(lines) == 1 or fault == "the first is killed", answer.stderr
    assert len(answer.stderr.splitlines()) <= 3, answer.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (RuntimeError("NCCL Error 6: unhandled system error"), True),
        (torch.distributed.DistStoreError("wait timeout after 15000ms"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ValueError("gloo"), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_errors_of_lost_processes_are_known(error: BaseException, expected: bool) -> None:
    assert is_of_others(error) == expected


def test_every_wait_on_a_process_that_does_not_answer_fails_as_such(tmp_path: Path) -> None:
    together(wait_for_both, 2, tmp_path)
    assert (tmp_path / "told").exists()


def wait_for_both(rank: int, world: int, folder: str) -> None:
    """Two sums at a time, as DDP has with two buckets: the second to be waited for fails by the first one's timeout."""
    with joined(rank, world, folder, timeout=timedelta(seconds=1)):
        if rank == 0:
            for work in [torch.distributed.all_reduce(torch.ones(10), async_op=True) for _ in range(2)]:
                with pytest.raises(RuntimeError) as told:
                    work.wait()
                assert is_of_others(told.value), told.value
            Path(folder, "told").touch()
        else:
            wait_for(Path(folder, "told"))


HARM = {
    "the second is killed": signal.SIGKILL,
    "the second is halted": signal.SIGSTOP,
    "the first is killed": signal.SIGKILL,
}


def wait_for_rank(parent: int) -> int:
    """The process that another has started."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            if found := children.read_text().split():
                return int(found[0])
        time.sleep(0.05)
    raise AssertionError("no second rank")


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def meet(rank: int, world: int, folder: str) -> None:
    """Two processes of a run, of the same settings and of others."""
    config = Config(
        task=task_config(), dataset=DatasetConfig(name="d", source={}), model=ModelConfig(name="m", network={}),
        method={"init": None}, train=train_config(),
    )  # fmt: skip
    with joined(rank, world, folder):
        SameRun(config, None).setup(*[None] * 3)  # type: ignore[arg-type]
        for other, last in ((replace(config, seed=rank), None), (config, Path(f"step {rank}"))):
            assert "different settings or checkpoints" in refusal(SameRun(other, last).setup, None, None, "fit")
    Path(folder, f"told {rank}").touch()


def test_processes_of_other_settings_do_not_train_together(tmp_path: Path) -> None:
    together(meet, 2, tmp_path)
    assert [file.name for file in sorted(tmp_path.glob("told *"))] == ["told 0", "told 1"]


def test_machines_that_nobody_starts_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODE_RANK", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert "waits for other machines, which nobody starts" in refusal(
        new_trainer, TrainerConfig(accelerator="cpu", num_nodes=2)
    )


def test_a_gpu_that_is_not_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert "no GPU is seen here; write trainer=auto" in refusal(new_trainer, TrainerConfig(accelerator="gpu"))
