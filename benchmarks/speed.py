"""How many times faster DiffI2I is than DiffIR at equal size, one prediction or one training step: `make bench`.

    [DIFFIR=<checkout>] python benchmarks/speed.py inference|training [task=inpainting] [budget=paper] [size=256]
      [batch=1] [rounds=15] [device=cpu] [output=<file>.json]

Each case in a process of its own, all in turn; then the peak of its memory beyond the networks. With DIFFIR, a checkout
of the authors' code, that is what DiffI2I is compared with, else this suite's DiffIR, which computes the same
(tests/golden/test_diffir.py), in the authors' memory layout. DiffI2I runs as the commands do, which keep freed memory;
DiffIR as its own scripts do, which don't, and once more with that memory kept. Random weights and images cost what
others do. A training step is the loss, its gradients, and Adam; stage 2's at that. On a GPU all are in one process.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import authors
import torch
import torch.nn.functional as F
from interleaved import Apart, Timing, given, interleaved, timed_warm
from torch import Tensor

from diffi2i.config.compose import load
from diffi2i.config.schema import Config, TrainerConfig
from diffi2i.losses.pixel import L1
from diffi2i.losses.task import TaskLoss
from diffi2i.memory import give_back, keep_freed
from diffi2i.methods.build import build_method
from diffi2i.methods.method import Method
from diffi2i.methods.optimisation import new_optimizer
from diffi2i.metrics.cost import peak_memory_mb
from diffi2i.run.hardware import autocast_of, placed
from diffi2i.tables.markdown import markdown

DEFAULTS = {
    "task": "inpainting",
    "budget": "paper",
    "size": "256",
    "batch": "1",
    "rounds": "15",
    "device": "cpu",
    "output": "",
}
CHANNELS_LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format
REFERENCE, KEPT = "DiffIR, fp32", ", memory kept"
Case = Callable[[], object]


def trainer_on(device: str) -> TrainerConfig:
    return TrainerConfig(accelerator="gpu" if device == "cuda" else device, precision="bf16")


def bf16(device: str) -> torch.autocast:
    return autocast_of(trainer_on(device))


def batch_of(config: Config, size: int, images: int, device: str) -> Any:
    """Random images of `size` at the output."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(images, 3, size, size, generator=generator).to(device)
    batch: dict[str, Any] = {"name": [str(i) for i in range(images)], "target": target}
    if config.task.in_channels == 4:
        mask = (torch.rand(images, 1, size, size, generator=generator) > 0.7).float().to(device)
        return batch | {"input": target * (1 - mask), "mask": mask}
    return batch | {"input": F.avg_pool2d(target, config.task.scale)}


def predicting(method: Method, batch: Any) -> Callable[[], Tensor]:
    """One prediction, as `diffi2i predict` makes it."""

    def predict() -> Tensor:
        with torch.inference_mode():
            return method.predict(batch, method.noise(batch))

    return predict


class Ours:
    """A method of this suite, as `diffi2i train` and `diffi2i predict` run it."""

    def __init__(
        self, method: str, task: str, budget: str, device: str, memory_format: torch.memory_format, *overrides: str
    ) -> None:
        given = [f"task={task}", f"budget={budget}", "train.loss=l1", *overrides]
        more = ["method.init=x", "method.prior_only=0"]
        first = load(Config, "train", [f"method={method}_s1", *given])
        self.config = load(Config, "train", [f"method={method}_s2", *more, *given])
        self.stages = [build_method(first, None)]
        self.stages.append(build_method(self.config, self.stages[0]))
        self.optimizers = []
        for stage in self.stages:
            placed(stage, trainer_on(device)).to(memory_format=memory_format)
            stage.learn_from(TaskLoss({"l1": L1()}))
            learning = [each for each in stage.parameters() if each.requires_grad]
            self.optimizers.append(new_optimizer(learning, self.config))

    def predict(self, batch: Any) -> Tensor:
        return predicting(self.stages[1].eval(), batch)()

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

    def __init__(self, checkout: Path, task: str, device: str) -> None:
        self.stages = [stage.to(device) for stage in authors.load(checkout, task)]
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


def cases(what: str, settings: Mapping[str, str]) -> dict[str, Case]:
    """What takes turns, DiffIR first. Networks are made when they first run."""
    task, budget, device = (settings[key] for key in ("task", "budget", "device"))
    checkout, fast = os.environ.get("DIFFIR"), partial(bf16, device)

    @cache
    def made(method: str, *overrides: str) -> Ours:
        layout = CONTIGUOUS if method == "diffir" else CHANNELS_LAST
        return Ours(method, task, budget, device, layout, *overrides)

    @cache
    def theirs() -> Theirs:
        return Theirs(Path(checkout or ""), task, device)

    @cache
    def batch() -> Any:
        of_task = load(Config, "train", ["method=diffi2i_s1", f"task={task}", f"budget={budget}", "train.loss=l1"])
        return batch_of(of_task, int(settings["size"]), int(settings["batch"]), device)

    def in_bf16() -> Tensor:
        with fast():
            return made("diffi2i").predict(batch())

    def step_of_diffir(stage: int) -> None:
        if checkout:
            theirs().step(stage, batch())
        else:
            made("diffir").step(stage, batch(), nullcontext)

    def step(stage: int, precision: Callable[[], AbstractContextManager[None]], *overrides: str) -> None:
        made("diffi2i", *overrides).step(stage, batch(), precision)

    if what == "inference":
        return {
            REFERENCE: lambda: (theirs() if checkout else made("diffir")).predict(batch()),
            "DiffI2I, fp32": lambda: made("diffi2i").predict(batch()),
            "DiffI2I, bf16": in_bf16,
        }
    found: dict[str, Case] = {}
    for stage in (0, 1):
        name = f", stage {stage + 1}"
        found[REFERENCE + name] = partial(step_of_diffir, stage)
        found[f"DiffI2I, fp32{name}"] = partial(step, stage, nullcontext)
        found[f"DiffI2I, bf16{name}"] = partial(step, stage, fast)
        found[f"DiffI2I, bf16, blocks twice{name}"] = partial(step, stage, fast, "trainer.gradient_checkpointing=true")
    return found


def alone(what: str, settings: Mapping[str, str], name: str) -> Case:
    """The case of that name, in a process that is its own."""
    if not name.startswith(REFERENCE) or KEPT in name:
        keep_freed()
    return cases(what, settings)[name.replace(KEPT, "")]


def peak_of(case: Case) -> float:
    """The peak of its memory in MiB, above what is there before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        give_back()  # else it would be used first, unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak_memory_mb()
    case()
    return peak_memory_mb() - before


def measured(what: str, settings: Mapping[str, str]) -> tuple[dict[str, Timing], dict[str, float]]:
    """Of each case its times and the peak of its memory."""
    rounds, made = int(settings["rounds"]), cases(what, settings)
    if settings["device"] == "cuda":
        return interleaved(made, rounds), {name: peak_of(case) for name, case in made.items()}
    kept = [name.replace(REFERENCE, REFERENCE + KEPT) for name in made if name.startswith(REFERENCE)]
    apart = {name: Apart(partial(alone, what, settings, name)) for name in (*made, *kept)}
    timings = interleaved(apart, rounds, lambda case: case.ask(timed_warm))
    peaks = {}
    for name, case in apart.items():
        peaks[name] = case.ask(peak_of)
        case.end()  # it keeps its peak, and not all of them fit beside each other
    return timings, peaks


def against(name: str) -> str:
    """The case that this one is compared with: DiffIR's of the same stage."""
    return REFERENCE + (name[name.index(", stage") :] if ", stage" in name else "")


def main() -> None:
    what, *words = sys.argv[1:] or ["nothing"]
    if what not in ("inference", "training"):
        raise SystemExit(f"{what}: write inference or training")
    settings = given(DEFAULTS, words)
    output = settings.pop("output")
    found, memory = measured(what, settings)
    rows = [["", "ms", "processor ms", "times faster than DiffIR", "peak, MiB", "of DiffIR's"]]
    for name, timing in found.items():
        reference = against(name)
        times, of = timing.times_faster_than(found[reference]), memory[name] / memory[reference]
        rows.append([name, f"{timing.ms:.0f}", f"{timing.cpu_ms:.0f}", times, f"{memory[name]:.0f}", f"{of:.2f}"])
    code = "the authors' code" if os.environ.get("DIFFIR") else "this suite's"
    where = torch.cuda.get_device_name() if settings["device"] == "cuda" else f"{torch.get_num_threads()} threads"
    images = f"{settings['batch']} x {settings['size']}x{settings['size']}"
    print(f"{settings['task']}, {what}, {images}, {where}, {settings['rounds']} rounds in turn, DiffIR: {code}\n")
    print(markdown(rows))
    if output:
        timings = {name: asdict(timing) | {"peak_mb": memory[name]} for name, timing in found.items()}
        content = settings | {"what": what, "where": where, "DiffIR": code, "cases": timings}
        Path(output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
