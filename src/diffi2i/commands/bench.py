"""`diffi2i bench`: the size and speed of a method, before it is trained."""

import torch
from torch import Tensor

from diffi2i.config.commands import BenchConfig
from diffi2i.data.degrade import has_holes
from diffi2i.kinds.kind import kind_of
from diffi2i.methods.batch import Batch
from diffi2i.methods.build import new_method
from diffi2i.metrics.cost import latency, multiply_accumulates, parameters, peak_memory_mb
from diffi2i.run.hardware import autocast_of, device_of


def bench(config: BenchConfig) -> None:
    """Prints the size and speed of a method's prediction, with untrained weights."""
    device, task = device_of(config.trainer), config.task
    method = new_method(config).to(device).eval()
    side = config.size // task.scale
    image = torch.rand(1, 3, side, side, device=device)
    target = kind_of(task).random_target(task, config.size).to(device)
    batch: Batch = {"name": ["random"], "input": image, "target": target}
    if has_holes(task):
        batch["mask"] = torch.ones_like(image[:, :1])

    def predict() -> Tensor:
        return method.predict(batch, method.noise(batch))

    print(f"task={task.name} model={config.model.name}, input {side}x{side}, output {config.size}x{config.size}")
    for name, part in method.parts().items():
        print(f"  {name:12}{parameters(part) / 1e6:9.3f} M parameters")
    print(f"  {'in all':12}{parameters(*method.parts().values()) / 1e6:9.3f} M parameters")
    print(f"  {multiply_accumulates(predict) / 1e9:.3f} G multiply-accumulates")
    with autocast_of(config.trainer):
        seconds, _ = latency(predict, config.repeats)
    print(f"  {seconds * 1e3:.1f} ms on {device} (median of {config.repeats}), peak {peak_memory_mb():.0f} MiB")
