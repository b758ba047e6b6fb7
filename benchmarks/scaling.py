"""How long a training of `budget=paper` takes on N GPUs, by a model whose every term stands below.

    python benchmarks/scaling.py [task=inpainting] [batch=<of a step>] [gpus=[1,2,8,64]] [per_node=8] [tflops=100]
      [launch_us=8] [inside=200] [between=25] [decode_ms=4]

    compute   6 x multiply-accumulates x images of this GPU / rate (a pass forwards, twice as much backwards), but not
              less than the operations of a step x launch_us: what a processor takes to start them one by one
    gradients 4 bytes x weights that train, averaged by a ring: 2 (N - 1) / N x bytes / bandwidth, the slower link's
    step      compute + what of the averaging is not hidden: DDP averages while the last two thirds of a step's compute
              are still being done, all but the last bucket of 25 MB
    loading   images a second x decode_ms: processor cores that only decode

`tflops` is the rate that one card reaches in this network: `make gpu-check` measures a step, whose multiply-accumulates
are printed here. `inside` and `between` are GB/s of a GPU's link in a node and to another one. The defaults are round
numbers, none of them measured. Not counted: discriminators and losses with networks of their own, crops that grow.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from interleaved import given
from speed import CHANNELS_LAST, Ours, batch_of, bf16
from torch.utils._python_dispatch import TorchDispatchMode

from diffi2i.metrics.cost import work
from diffi2i.tables.markdown import markdown

DEFAULTS = {
    "task": "inpainting", "batch": "", "gpus": "[1,2,8,64]", "per_node": "8", "tflops": "100", "launch_us": "8",
    "inside": "200", "between": "25", "decode_ms": "4",
}  # fmt: skip
BUCKET_BYTES = 25 * 2**20  # of DDP
DAY = 86_400


@dataclass(frozen=True)
class Training:
    """A stage: multiply-accumulates an image, operations a step, weights that train, images a step, steps."""

    macs: float
    operations: int
    weights: int
    batch: int
    steps: int


@dataclass(frozen=True)
class Machines:
    """Rates in operations and bytes a second; `launch` is in seconds."""

    per_node: int
    rate: float
    launch: float
    inside: float
    between: float


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that the processor starts, but for those that only look at a tensor in another way."""

    count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(run: Callable[[], object]) -> int:
    counting = Counting()  # type: ignore[no-untyped-call]
    with counting:
        run()
    return counting.count


def averaging(machines: Machines, gpus: int, size: float) -> float:
    """Seconds that a ring takes for `size` bytes of gradients."""
    bandwidth = machines.inside if gpus <= machines.per_node else machines.between
    return 2 * (gpus - 1) / gpus * size / bandwidth


def step_seconds(training: Training, machines: Machines, gpus: int) -> tuple[float, float]:
    """Seconds of a step, and of these the part in which the GPU waits for gradients."""
    arithmetic = 6 * training.macs * training.batch / gpus / machines.rate
    compute = max(arithmetic, training.operations * machines.launch)
    size = 4 * training.weights
    last = min(size, BUCKET_BYTES)
    hidden = averaging(machines, gpus, size - last)
    waiting = averaging(machines, gpus, last) + max(0.0, hidden - 2 / 3 * compute)
    return compute + waiting, waiting


def of(task: str) -> Training:
    """Stage 2 of the paper's budget, whose steps are the dearest; a phase of larger crops is not counted."""
    ours = Ours("diffi2i", task, "paper", "cpu", CHANNELS_LAST)
    train, method = ours.config.train, ours.stages[1]
    patch = 64
    batch = batch_of(ours.config, patch, 1, "cpu")
    with torch.inference_mode():
        macs = work(lambda: method.predict(batch, method.noise(batch)), method.parts()).macs
    started = operations(lambda: ours.step(1, batch, lambda: bf16("cpu")))
    weights = sum(weight.numel() for weight in method.parameters() if weight.requires_grad)
    return Training(macs * (train.patch / patch) ** 2, started, weights, train.batch, train.steps)


def main() -> None:
    settings = given(DEFAULTS, sys.argv[1:])
    training = of(settings["task"])
    if settings["batch"]:
        training = replace(training, batch=int(settings["batch"]))
    machines = Machines(
        int(settings["per_node"]),
        1e12 * float(settings["tflops"]),
        1e-6 * float(settings["launch_us"]),
        1e9 * float(settings["inside"]),
        1e9 * float(settings["between"]),
    )
    alone, _ = step_seconds(training, machines, 1)
    rows = [["GPUs", "images a GPU", "step, ms", "waiting, ms", "efficiency", "images/s", "cores to decode", "days"]]
    for text in settings["gpus"].strip("[]").split(","):
        gpus = int(text)
        if training.batch % gpus:
            rows.append([text, "n/a: no whole number", *[""] * 6])
            continue
        step, waiting = step_seconds(training, machines, gpus)
        speed = training.batch / step
        rows.append([
            text, f"{training.batch // gpus}", f"{1e3 * step:.1f}", f"{1e3 * waiting:.2f}",
            f"{100 * alone / gpus / step:.0f} %", f"{speed:.0f}", f"{speed * float(settings['decode_ms']) / 1e3:.1f}",
            f"{step * training.steps / DAY:.2f}",
        ])  # fmt: skip
    print(
        f"{settings['task']}, stage 2 of budget=paper: {training.macs / 1e9:.1f} G multiply-accumulates an image, "
        f"{training.operations:,} operations a step, {training.weights / 1e6:.1f} M weights that train, batch "
        f"{training.batch}, {training.steps:,} steps; {settings['tflops']} TFLOP/s a card\n"
    )
    print(markdown(rows))


if __name__ == "__main__":
    main()
