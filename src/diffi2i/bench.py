"""Size and speed of a network: parameters, multiply-accumulates, latency, peak memory."""

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffi2i.methods.batch import Batch
from diffi2i.methods.build import new_method
from diffi2i.runtime import autocast_of, device_of
from diffi2i.schema import BenchConfig, TaskConfig


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def multiply_accumulates(call: Callable[[], object]) -> int:
    """Half the floating-point operations of the convolutions and matrix products in one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def latency(call: Callable[[], Tensor], repeats: int) -> float:
    """Median seconds of one call after a warm-up, the device's queue emptied around each."""
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_mb() -> float:
    """Peak memory in MiB: allocated on the GPU where there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def bench(config: BenchConfig) -> None:
    """`diffi2i bench`: prints the size and speed of a method's prediction, with untrained weights."""
    device, task = device_of(config.trainer), config.task
    method = new_method(config).to(device).eval()
    side = config.size // task.scale
    image, target = torch.rand(1, 3, side, side, device=device), random_target(task, config.size).to(device)
    batch: Batch = {"name": ["random"], "input": image, "target": target}
    if task.in_channels == 4:
        batch["mask"] = torch.ones_like(image[:, :1])

    def predict() -> Tensor:
        return method.predict(batch, method.noise(batch))

    print(f"task={task.name} model={config.model.name}, input {side}x{side}, output {config.size}x{config.size}")
    for name, part in method.parts().items():
        print(f"  {name:12}{parameters(part) / 1e6:9.3f} M parameters")
    print(f"  {'in all':12}{parameters(*method.parts().values()) / 1e6:9.3f} M parameters")
    print(f"  {multiply_accumulates(predict) / 1e9:.3f} G multiply-accumulates")
    with autocast_of(config.trainer):
        seconds = latency(predict, config.repeats)
    print(f"  {seconds * 1e3:.1f} ms on {device} (median of {config.repeats}), peak {peak_memory_mb():.0f} MiB")


def random_target(task: TaskConfig, size: int) -> Tensor:
    """A ground truth of the task's kind, which some methods see."""
    if task.kind == "labels":
        return torch.randint(task.classes or 1, (1, size, size))
    return torch.rand(1, 1 if task.kind == "depth" else 3, size, size)
