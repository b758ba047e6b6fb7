"""Size and speed of a network: parameters, multiply-accumulates, latency, peak memory."""

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffi2i.models.diffi2i import build_diffi2i
from diffi2i.run.hardware import autocast_of, device_of
from diffi2i.schema import BenchConfig


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def multiply_accumulates(call: Callable[[], object]) -> int:
    """Half the floating-point operations of the convolutions and matrix products in one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def latency(call: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """Median seconds of one call after a warm-up, the device's queue emptied around each: wall, and this process's."""
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            synchronize()
            start, busy = time.perf_counter(), time.process_time()
            call()
            synchronize()
            times.append((time.perf_counter() - start, time.process_time() - busy))
    wall, processor = zip(*times[1:], strict=True)
    return statistics.median(wall), statistics.median(processor)


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
    """`diffi2i bench`: prints the size and speed of the inference network (CPEN_S2, denoiser, DI2Iformer)."""
    device, task = device_of(config.trainer), config.task
    network = build_diffi2i(task, config.model, config.stage.diffusion, config.stage.prior != "none")
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    side = config.size // task.scale
    image = torch.rand(1, task.in_channels, side, side, device=device).to(memory_format=torch.channels_last)
    z_T = torch.randn(1, 4 * config.model.cpen.channels, device=device)
    parts = {"CPEN_S2": network.cpen_s2, "denoiser": network.denoiser, "DI2Iformer": network.di2iformer}
    print(f"task={task.name} model={config.model.name}, input {side}x{side}, output {config.size}x{config.size}")
    for name, part in parts.items():
        if part is not None:
            print(f"  {name:12}{parameters(part) / 1e6:9.3f} M parameters")
    print(f"  {'in all':12}{parameters(network) / 1e6:9.3f} M parameters")
    print(f"  {multiply_accumulates(lambda: network(image, z_T)) / 1e9:.3f} G multiply-accumulates")
    with autocast_of(config.trainer):
        seconds, _ = latency(lambda: network(image, z_T), config.repeats)
    print(f"  {seconds * 1e3:.1f} ms on {device} (median of {config.repeats}), peak {peak_memory_mb():.0f} MiB")
