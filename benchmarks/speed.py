"""How many times faster DiffI2I is than DiffIR at equal size, one prediction or one training step: `make bench`.

    [DIFFIR=<checkout>] python benchmarks/speed.py inference|training [task=inpainting] [budget=paper] [size=256]
      [batch=1] [rounds=15] [output=<file>.json]

One process, the cases in turn. With DIFFIR, a checkout of the authors' code, that is what DiffI2I is compared with,
else this suite's DiffIR, which computes the same (tests/golden/test_diffir.py), in the authors' memory layout. Random
weights and images cost what others do. A training step is the loss, its gradients, and Adam; stage 2's at that.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import authors
import torch
import torch.nn.functional as F
from interleaved import given, interleaved
from torch import Tensor

from diffi2i.config.compose import load
from diffi2i.config.schema import Config, TrainerConfig
from diffi2i.losses.pixel import L1
from diffi2i.losses.task import TaskLoss
from diffi2i.methods.build import build_method
from diffi2i.methods.optimisation import new_optimizer
from diffi2i.run.hardware import autocast_of
from diffi2i.tables.markdown import markdown

DEFAULTS = {"task": "inpainting", "budget": "paper", "size": "256", "batch": "1", "rounds": "15", "output": ""}
CHANNELS_LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format
Case = Callable[[], object]


def bf16() -> torch.autocast:
    return autocast_of(TrainerConfig(accelerator="cpu", precision="bf16"))


def batch_of(config: Config, size: int, images: int) -> Any:
    """Random images of `size` at the output."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(images, 3, size, size, generator=generator)
    batch: dict[str, Any] = {"name": [str(i) for i in range(images)], "target": target}
    if config.task.in_channels == 4:
        mask = (torch.rand(images, 1, size, size, generator=generator) > 0.7).float()
        return batch | {"input": target * (1 - mask), "mask": mask}
    return batch | {"input": F.avg_pool2d(target, config.task.scale)}


class Ours:
    """A method of this suite, as `diffi2i train` and `diffi2i predict` run it."""

    def __init__(self, method: str, task: str, budget: str, memory_format: torch.memory_format) -> None:
        first, second = (
            load(
                Config,
                "train",
                [f"task={task}", f"method={method}_{stage}", f"budget={budget}", "train.loss=l1", *more],
            )
            for stage, more in (("s1", []), ("s2", ["method.init=x", "method.prior_only=0"]))
        )
        self.config = second
        self.stages = [build_method(first, None).to(memory_format=memory_format)]
        self.stages.append(build_method(second, self.stages[0]).to(memory_format=memory_format))
        self.optimizers = []
        for stage in self.stages:
            stage.learn_from(TaskLoss({"l1": L1()}))
            learning = [each for each in stage.parameters() if each.requires_grad]
            self.optimizers.append(new_optimizer(learning, self.config))

    def predict(self, batch: Any) -> Tensor:
        with torch.inference_mode():
            method = self.stages[1].eval()
            return method.predict(batch, method.noise(batch))

    def step(self, stage: int, batch: Any, precision: Callable[[], AbstractContextManager[None]]) -> None:
        method, optimizer = self.stages[stage].train(), self.optimizers[stage]
        with precision():
            terms, output = method.objective(batch, torch.Generator())
            assert output is not None
            loss = F.l1_loss(output, batch["target"]) + sum(terms.values())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


class Theirs:
    """DiffIR by its authors' code."""

    def __init__(self, checkout: Path, task: str) -> None:
        self.stages = authors.load(checkout, task)
        self.optimizers = [torch.optim.Adam(stage.parameters(), 2e-4, (0.9, 0.99)) for stage in self.stages]

    @staticmethod
    def seen(batch: Any) -> Tensor:
        return torch.cat([batch["input"], batch["mask"]], 1) if "mask" in batch else batch["input"]

    def predict(self, batch: Any) -> Tensor:
        with torch.inference_mode():
            output: Tensor = self.stages[1].eval()(self.seen(batch))
            return output

    def step(self, stage: int, batch: Any) -> None:
        first, second = (each.train() for each in self.stages)
        seen, target = self.seen(batch), batch["target"]
        if stage == 0:
            output, _ = first(seen, target)
            loss = F.l1_loss(output, target)
        else:
            with torch.no_grad():
                _, prior = first.E(seen, target)
            output, estimates = second(seen, prior[0])
            loss = F.l1_loss(output, target) + F.l1_loss(estimates[-1], prior[0])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers[stage].step()
        self.optimizers[stage].zero_grad()


def cases(what: str, task: str, budget: str, size: int, images: int) -> dict[str, Case]:
    """What takes turns, DiffIR first."""
    ours = Ours("diffi2i", task, budget, CHANNELS_LAST)
    batch = batch_of(ours.config, size, images)
    found: dict[str, Case] = {}

    def in_bf16() -> Tensor:
        with bf16():
            return ours.predict(batch)

    if checkout := os.environ.get("DIFFIR"):
        theirs = Theirs(Path(checkout), task)
        predict: Case = lambda: theirs.predict(batch)  # noqa: E731
        steps: list[Case] = [lambda: theirs.step(0, batch), lambda: theirs.step(1, batch)]
    else:
        same = Ours("diffir", task, budget, CONTIGUOUS)
        predict = lambda: same.predict(batch)  # noqa: E731
        steps = [lambda: same.step(0, batch, nullcontext), lambda: same.step(1, batch, nullcontext)]
    if what == "inference":
        return {"DiffIR, fp32": predict, "DiffI2I, fp32": lambda: ours.predict(batch), "DiffI2I, bf16": in_bf16}
    for stage in (0, 1):
        name = f"stage {stage + 1}"
        found[f"DiffIR, fp32, {name}"] = steps[stage]
        found[f"DiffI2I, fp32, {name}"] = lambda stage=stage: ours.step(stage, batch, nullcontext)  # type: ignore[misc]
        found[f"DiffI2I, bf16, {name}"] = lambda stage=stage: ours.step(stage, batch, bf16)  # type: ignore[misc]
    return found


def main() -> None:
    what, *words = sys.argv[1:] or ["nothing"]
    if what not in ("inference", "training"):
        raise SystemExit(f"{what}: write inference or training")
    settings = given(DEFAULTS, words)
    found = interleaved(
        cases(what, settings["task"], settings["budget"], int(settings["size"]), int(settings["batch"])),
        rounds := int(settings["rounds"]),
    )
    rows = [["", "ms", "processor ms", "times faster than DiffIR"]]
    for name, timing in found.items():
        reference = found["DiffIR, fp32" + name[name.rindex(", stage") :] if ", stage" in name else "DiffIR, fp32"]
        rows.append([name, f"{timing.ms:.0f}", f"{timing.cpu_ms:.0f}", timing.times_faster_than(reference)])
    code = "the authors' code" if os.environ.get("DIFFIR") else "this suite's"
    threads, images = torch.get_num_threads(), f"{settings['batch']} x {settings['size']}x{settings['size']}"
    print(f"{settings['task']}, {what}, {images}, {threads} threads, {rounds} rounds in turn, DiffIR: {code}\n")
    print(markdown(rows))
    if output := settings.pop("output"):
        content = settings | {
            "what": what,
            "threads": threads,
            "DiffIR": code,
            "cases": {k: asdict(v) for k, v in found.items()},
        }
        Path(output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
