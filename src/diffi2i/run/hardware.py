"""Hardware and precision: what a configuration's `trainer` node means on this machine."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.distributed import DistError

from diffi2i.config.schema import TrainerConfig
from diffi2i.errors import LostProcessError, UserError
from diffi2i.memory import keep_freed
from diffi2i.run import signals

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


class Stopping(L.Callback):
    """Signals stop the Trainer as they stop all else: its own handlers would let ranks wait for each other."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.listen()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.listen()


class Placing(L.Callback):
    """What `placed` does, for a method that the Trainer moves to its device."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.strategy.root_device.type == "cpu":
            by_onednn(pl_module)


def watch_ranks(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends this process, the first of a run, when a rank that it has started fails.

    In place of Lightning's watch, which kills it without a word.
    """

    def watch() -> None:
        while not any(codes := [rank.poll() for rank in ranks]):
            if codes and None not in codes:
                return  # all have ended well
            time.sleep(signals.WATCH_SECONDS)
        time.sleep(signals.WATCH_SECONDS)  # perhaps this process has been told to stop, too, or knows the reason
        if signals.received:
            return
        number, code = next((i + 1, code) for i, code in enumerate(codes) if code)
        for rank in ranks:
            rank.kill()
        say = f"rank {number} of this run has ended with status {code}: what it printed says why"
        print(f"diffi2i: {say}; give the same command again to go on", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


subprocess_script._launch_process_observer = watch_ranks  # type: ignore[assignment, attr-defined]


def is_of_others(error: BaseException) -> bool:
    """Whether communication with other processes has failed. Gloo's errors are known by their text alone.

    Most begin with their place in its source. One does not: what waits beside an operation that has timed out is told
    "Application timeout caused pair closure".
    """
    told = isinstance(error, RuntimeError) and re.search("gloo|NCCL|caused pair closure", str(error))
    return isinstance(error, DistError) or bool(told)


@contextmanager
def with_others(trainer: L.Trainer, seconds: int) -> Iterator[None]:
    """Runs what needs all processes of a run. Raises `LostProcessError` where one of them is gone or does not answer.

    After any error none is left behind, not even one that is halted.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
            trainer.strategy.launcher.kill(signal.SIGKILL)
        if trainer.world_size == 1 or not is_of_others(error):
            raise
        raise LostProcessError(
            f"another process of this run has ended, or has not answered for {seconds} s (trainer.timeout={seconds}): "
            "what it printed says why; give the same command again to go on"
        ) from error


def new_trainer(
    trainer: TrainerConfig,
    callbacks: Sequence[L.Callback] = (),
    plugins: Sequence[Any] = (),
    **arguments: Any,
) -> L.Trainer:
    """Lightning's Trainer on the configured hardware, in the configured precision.

    On several GPUs batch normalisation is synchronised.

    Raises:
        UserError: this machine has no such hardware.
    """
    several = trainer.devices * trainer.num_nodes > 1
    started = SLURMEnvironment.detect() or TorchElasticEnvironment.detect() or "NODE_RANK" in os.environ
    if trainer.num_nodes > 1 and not started:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} waits for other machines, which nobody starts: start the command "
            "on each by srun or torchrun, or with NODE_RANK and MASTER_ADDR set"
        )
    if trainer.accelerator == "gpu" and not torch.accelerator.is_available():
        raise UserError("trainer.accelerator=gpu: no GPU is seen here; write trainer=auto or trainer=cpu")
    together = DDPStrategy(timeout=timedelta(seconds=trainer.timeout))
    # Of whose handling of signals a checkpoint would be written in the midst of a step; see `callbacks.last`.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    try:
        return L.Trainer(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=together if several else "auto",
            sync_batchnorm=several and device_of(trainer).type == "cuda",
            precision="bf16-mixed" if uses_bf16(trainer) else "32-true",
            # The project's samplers already divide the images among the processes.
            use_distributed_sampler=False,
            enable_model_summary=False,
            callbacks=[Stopping(), Placing(), *callbacks],
            plugins=[*slurm, *plugins],
            **arguments,
        )
    except (ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {str(error).strip().splitlines()[0]}") from error


def of_all_ranks(own: T) -> list[T]:
    """What each process has, this one included, by rank. Collective under DDP; anything that can be pickled."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, own)
    return shares


def is_first_rank() -> bool:
    """Whether this process writes for all; true where there is only one."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def device_of(trainer: TrainerConfig) -> torch.device:
    """The device of a command that uses one."""
    wanted = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if wanted else "cpu")


def placed(module: M, trainer: TrainerConfig) -> M:
    """The module on the device of a command, in the form that is fastest there."""
    device = device_of(trainer)
    if device.type == "cpu":
        by_onednn(module)
    return module.to(device)


def by_onednn(module: nn.Module) -> None:
    """Has oneDNN compute the 1x1 convolutions inside in float32, with one thread too; the mathematics is the same.

    Small batches of one thread are left to BLAS otherwise, which takes up to three times as long on some processors
    (docs/performance.md), unless the kernel is larger, has a stride or is dilated. One pixel is the same dilated. Does
    nothing where PyTorch comes without oneDNN, as on macOS: what is dilated is slower there.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.dilation = (2, 2)


def uses_bf16(trainer: TrainerConfig) -> bool:
    """Whether the networks run in bf16; `auto` says yes only where the processor multiplies bf16 natively."""
    if trainer.precision != "auto":
        return trainer.precision == "bf16"
    if device_of(trainer).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_bf16" in flags.read_text()


def autocast_of(trainer: TrainerConfig) -> torch.autocast:
    """The autocast context of a command without a Lightning Trainer."""
    return torch.autocast(device_of(trainer).type, dtype=torch.bfloat16, enabled=uses_bf16(trainer))


def prepare(trainer: TrainerConfig) -> None:
    """Of a command, before its work: threads, memory, and no advice of Lightning's that does not apply here."""
    keep_freed()
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    expected = (
        "does not have many workers",
        "Trying to infer the `batch_size`",
        "LeafSpec",
        "sync_dist=True",
        "exists and is not empty",
    )
    for text in expected:
        warnings.filterwarnings("ignore", message=f".*{text}")
