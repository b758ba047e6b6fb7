"""`diffi2i compress`: how shallow a run's network, and how few its time steps, may be (Kim et al. 2024)."""

import math
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from rich.progress import track
from torch import Tensor

from diffi2i.commands.eval import cost
from diffi2i.config.checks import check_source
from diffi2i.config.commands import CompressConfig
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.diffusion.samplers import Sampler, earliest_start, visited
from diffi2i.diffusion.schedule import Schedule
from diffi2i.diffusion.spacing import gamma_steps, greedy, subsets
from diffi2i.errors import UserError
from diffi2i.files import inside, whole, write_json
from diffi2i.kinds.kind import kind_of
from diffi2i.kinds.spec import KINDS
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Method
from diffi2i.methods.process import sampler_of
from diffi2i.methods.pruning import fine_tuning
from diffi2i.metrics.image import psnr
from diffi2i.models.depth import DEPTH, OfDepth
from diffi2i.run.directory import load_method
from diffi2i.run.hardware import autocast_of, device_of, placed, prepare
from diffi2i.run.hub import located
from diffi2i.run.provenance import provenance
from diffi2i.tables.markdown import markdown

SHORT = 8
"""Of a schedule of so many steps at most all subsets are tried: 128."""
PRINTED = (
    "Kim et al. print, of U-Nets of 860 M parameters and for both together: InstructPix2Pix 39 % of the footprint and "
    "81 % of the latency less, StableSR 56 % and 69 %, ControlNet 39 % and 31 %."
)


@dataclass(frozen=True)
class Trial:
    """A prediction by a network of `depth` with these time `steps`; None: it has no depth, or the steps are the run's.

    `psnr` is that of its outputs to the run's own, in dB, averaged over the training crops; the rest is what one takes.
    """

    depth: int | None
    steps: list[int] | None
    psnr: float
    parameters: int
    macs: int | None
    calls: int | None
    seconds: float


@dataclass(frozen=True)
class Steps:
    """Time steps that were tried, `gamma` where they lie on a curve, and `psnr` as that of `Trial`."""

    gamma: float | None
    steps: list[int]
    psnr: float


class Reference:
    """The outputs of the run as it is, on crops that it was trained on."""

    def __init__(self, method: Method, crops: Sequence[Batch]) -> None:
        self.method, self.crops = method, crops
        self.outputs = self.predicted(method, "the run itself")
        self.whole = self.trial(method)

    def predicted(self, method: Method, what: str) -> list[Tensor]:
        """What comes out of each crop, in [0, 1]."""
        found = []
        for crop in track(self.crops, what, transient=True, disable=not sys.stdout.isatty()):
            batch = move_data_to_device(crop, method.device)
            with torch.inference_mode(), autocast_of(method.config.trainer):
                output = method.predict(batch, method.noise(batch))
            found.append(kind_of(method.config.task).final(output, batch).float().cpu())
        return found

    def psnr(self, method: Method, what: str) -> float:
        """Of the method's outputs to the run's own; infinite where they are equal."""
        pairs = zip(self.predicted(method, what), self.outputs, strict=True)
        return sum(float(psnr(ours, theirs)) for ours, theirs in pairs) / len(self.outputs)

    def trial(self, method: Method, steps: list[int] | None = None) -> Trial:
        depth = depth_of(method)
        agreement = math.inf if method is self.method else self.psnr(method, f"depth {depth}")
        taken = cost(method, {key: value[0] for key, value in cast(dict[str, Any], self.crops[0]).items()})
        return Trial(depth, steps, agreement, taken.parameters, taken.macs, taken.calls, taken.seconds_per_image)


def compress(config: CompressConfig) -> Path:
    """Prints what was found and writes it into `output`. Returns that folder.

    Raises:
        UserError: no finished run of images, training images that are not there, nothing that can be made less, or a
            threshold that no depth meets.
    """
    run = located(config.run)
    method = load_method(run, trust=config.trust)
    method.config.trainer = config.trainer
    deep, schedule = config.threshold is not None and (depth_of(method) or 0) > 1, schedule_of(method, config)
    refuse(method, deep, schedule, config)
    folder = Path(config.output) if config.output else inside(run, "compress")
    if (folder / "config.yaml").exists():
        raise UserError(f"output={folder} is a run: name another folder")
    prepare(config.trainer)
    crops = training_crops(method.config, config)
    reference = Reference(placed(method, config.trainer).eval(), crops)

    smaller: Any = deepcopy(method)
    rows, depth = [reference.whole], depth_of(method)
    if deep:
        rows += shallower(reference, deepcopy(method), cast(float, config.threshold))
        depth = [row.depth for row in rows if row.psnr >= cast(float, config.threshold)][-1]
    tried, steps = list[Steps](), None
    if schedule is not None:
        tried = timings(reference, smaller, schedule, config)
        steps = chosen(tried, schedule, config.threshold)
        smaller.sampler = sampler_with(method, steps)
        rows.append(reference.trial(smaller, steps))
        if depth != depth_of(method):
            smaller.network.keep(depth)
            rows.append(reference.trial(smaller, steps))

    text = page(rows, tried, config, method.config)
    facts = {"run": str(run), "threshold": config.threshold, "images": config.images, DEPTH: depth, "steps": steps}
    lists = {"trials": [asdict(each) for each in rows], "time_steps": [asdict(each) for each in tried]}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(inside(folder, "compress.json"), facts | lists | {"provenance": asdict(provenance())})
    with whole(inside(folder, "compress.md")) as place:
        place.write_text(text, encoding="utf-8")
    print(text)
    if depth is not None and depth != depth_of(method):
        print(fine_tuning(run, method.config, depth))
    if steps is not None:
        print(f"diffi2i eval run={run} set=[method.sampler.steps=[{','.join(map(str, steps))}]]")
    return folder


def depth_of(method: Method) -> int | None:
    network = getattr(method, "network", None)
    return network.depth if isinstance(network, OfDepth) else None


def schedule_of(method: Method, config: CompressConfig) -> Schedule | None:
    """Of a method whose sampler chooses among its time steps; None: there is none, or it is not asked for."""
    choosing = config.steps is not None and "steps" in method.config.method.get("sampler", {})
    return getattr(method, "schedule", None) if choosing else None


def refuse(method: Method, deep: bool, schedule: Schedule | None, config: CompressConfig) -> None:
    """Raises `UserError` as `compress` does, of what can be told before any work."""
    run, task, name = config.run, method.config.task, method.config.method["name"]
    if method.config.method.get("int8"):
        raise UserError(f"run={run} has weights in 8 bits, which learn nothing: name the run that they were made of")
    if KINDS[task.kind].dense:
        raise UserError(f"run={run} is of task={task.name}, whose outputs have no PSNR: name a run of images")
    if not deep and schedule is None:
        raise UserError(
            f"run={run}, method={name} with model={method.config.model.name}, has neither a depth nor time steps that "
            "these settings would search: name a run of a U-shaped network or of a diffusion"
        )
    if schedule is None or schedule.steps <= SHORT:
        return
    taken = len(visited(schedule, method.config.method["sampler"]["steps"]))
    if cast(int, config.steps) >= taken:
        raise UserError(f"steps={config.steps}: the run takes {taken} as it is, write fewer, or steps=null")


def training_crops(settings: Config, config: CompressConfig) -> list[Batch]:
    """The crops that the first steps of the training saw. Raises `UserError`: the images are not there."""
    if config.root is not None:
        settings.dataset.source |= {"root": config.root}
    check_source(settings.dataset)
    return cast(list[Batch], list(islice(build_data(settings).crops(), config.images)))


def shallower(reference: Reference, method: Any, threshold: float) -> list[Trial]:
    """From the deepest upwards, as long as the threshold is met, and the first that does not meet it (Alg. 1).

    Raises:
        UserError: not even the deepest meets it.
    """
    rows = list[Trial]()
    for depth in range(method.network.depth - 1, 0, -1):
        method.network.keep(depth)
        rows.append(reference.trial(method))
        if rows[-1].psnr < threshold:
            break
    if rows[0].psnr < threshold:
        raise UserError(
            f"threshold={threshold:g}: no depth meets it, the deepest, {rows[0].depth}, is at {rows[0].psnr:.2f} dB: "
            "write less, or threshold=null for the time steps alone"
        )
    return rows


def sampler_with(method: Method, steps: list[int]) -> Sampler:
    """The method's own sampler on other time steps."""
    return sampler_of(method.config.method["sampler"] | {"steps": steps}, method.schedule)  # type: ignore[arg-type]


def timings(reference: Reference, method: Any, schedule: Schedule, config: CompressConfig) -> list[Steps]:
    """What was tried: of a short schedule all subsets, else curves, by the greedy search (Alg. 2)."""
    n, T, found = cast(int, config.steps), schedule.steps, list[Steps]()

    def score(gamma: float | None, steps: list[int]) -> float:
        method.sampler = sampler_with(method, steps)
        found.append(Steps(gamma, steps, reference.psnr(method, f"{len(steps)} of {T} steps")))
        return found[-1].psnr

    if T <= SHORT:
        for steps in (each for each in subsets(T) if len(each) <= n):
            score(None, steps)
    else:
        start = earliest_start(schedule)
        greedy(lambda gamma: score(gamma, gamma_steps(T, n, gamma, config.bias, start)), config.gamma_step)
    return found


def chosen(tried: Sequence[Steps], schedule: Schedule, threshold: float | None) -> list[int]:
    """Those that agree best with the run; of a short schedule among the fewest that meet the threshold, if any do."""
    meeting = [each for each in tried if threshold is not None and each.psnr >= threshold]
    if schedule.steps <= SHORT and meeting:
        fewest = min(len(each.steps) for each in meeting)
        tried = [each for each in meeting if len(each.steps) == fewest]
    return max(tried, key=lambda each: each.psnr).steps


def page(rows: Sequence[Trial], tried: Sequence[Steps], config: CompressConfig, settings: Config) -> str:
    """Markdown: what each depth and the time steps cost, and what was tried."""
    first = rows[0]
    head = ("", "parameters (M)", "of the run", "G MACs", "calls", "ms", "of the run", "PSNR to the run (dB)")
    table = [
        [
            "the run" if row is first else named(row),
            f"{row.parameters / 1e6:.3f}",
            f"{row.parameters / first.parameters:.1%}",
            "" if row.macs is None else f"{row.macs / 1e9:.3f}",
            str(row.calls or ""),
            f"{1e3 * row.seconds:.1f}",
            f"{row.seconds / first.seconds:.1%}",
            decibels(row.psnr),
        ]
        for row in rows
    ]
    lines = [markdown([head, *table]), ""]
    if tried:
        times = [
            [" ".join(map(str, each.steps)), f"{each.gamma:.3f}" if each.gamma else "", decibels(each.psnr)]
            for each in tried
        ]
        lines += [markdown([("time steps", "gamma", "PSNR to the run (dB)"), *times]), ""]
    elif config.steps is not None:
        lines += [f"No time steps were searched: method={settings.method['name']} has no sampler that takes them.", ""]
    lines += [
        f"{config.images} training crops of {settings.train.patch} pixels, nothing fine-tuned; what one takes on "
        f"{device_of(config.trainer)}. {PRINTED}",
        "",
    ]
    return "\n".join(lines)


def named(row: Trial) -> str:
    depth = [] if row.depth is None else [f"depth {row.depth}"]
    return ", ".join([*depth, *([] if row.steps is None else [f"time steps: {len(row.steps)}"])])


def decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.2f}"
