"""All that only a GPU can show, within half an hour on one card: `make gpu-check`.

    python benchmarks/gpu_check.py [device=cuda] [only=[tasks,resume]] [size=256] [batch=8] [steps=1000] [folder=<new>]

The parts, trainings in processes of their own:
    tasks       both stages of the six tasks train in bf16 and are scored, `budget=smoke`
    nccl        the gradients of a step under DDP over NCCL, with one process, equal those without
    resume      a training that is stopped and goes on ends at the weights of one that is not, two of which are compared
    compile     what torch.compile takes and brings: benchmarks/compiled.py
    speed       times and memory of each size against DiffIR, predicting and training: benchmarks/speed.py
    reduced     the first `steps` of a training of `budget=reduced`: steps a second

Writes <folder>/<part>.json and check.md, a table of all parts that lie there, after each thing that it has found: what
is stopped leaves what it has, and a part may be run again by itself, or beside others that are not timed. The folder
is experiments/results/gpu/<card>. Exit status 1 where something has failed, 2 where there is no GPU. device=cpu tries
the script itself, at small sizes.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from interleaved import given
from safetensors.torch import load_file
from speed import CHANNELS_LAST, Ours, against, batch_of, measured

from diffi2i.tables.markdown import markdown

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {"device": "cuda", "only": "", "size": "256", "batch": "8", "steps": "1000", "folder": ""}
TASKS = ("inpainting", "sisr", "realsr", "deblur", "segmentation", "depth")
SIZES = ("inpainting", "sisr", "deblur")
POLL_SECONDS = 0.05
FAILED = "failed"
"""The fact of what did not work."""

Facts = dict[str, Any]
Found = Iterator[tuple[str, Facts]]
"""By name, as they come."""


def call(*words: str) -> str:
    """What a command of this Python prints. Raises `RuntimeError` with its last line where it fails."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1])
    return done.stdout


def training(settings: dict[str, str], run_dir: Path, *words: str) -> list[str]:
    accelerator = "gpu" if settings["device"] == "cuda" else "cpu"
    fixed = ["logger=none", f"trainer.accelerator={accelerator}", "trainer.progress=false"]
    return ["-m", "diffi2i", "train", f"run_dir={run_dir}", *fixed, *words]


def of_record(run_dir: Path) -> Facts:
    record = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    main = record["main_metric"]
    return {"seconds": record["training"]["seconds"], main: record["scores"][main]["value"]}


def both_stages(settings: dict[str, str], folder: Path, task: str) -> list[tuple[str, Facts]]:
    found: list[tuple[str, Facts]] = []
    shared = [f"task={task}", "budget=smoke", "trainer.precision=bf16"]
    shared += ["train.loss=l1", "task.main_metric=psnr"] if task == "realsr" else []  # without fetched weights
    for stage, more in ((1, ["method=diffi2i_s1"]), (2, ["method=diffi2i_s2", f"method.init={folder / task}1"])):
        name = f"{task}, stage {stage}"
        try:
            call(*training(settings, folder / f"{task}{stage}", *shared, *more))
        except RuntimeError as error:
            return [*found, (name, {FAILED: str(error)})]
        facts = of_record(folder / f"{task}{stage}")
        del facts["seconds"]  # the tasks run beside each other
        found.append((name, facts))
    return found


def tasks(settings: dict[str, str], folder: Path) -> Found:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed([pool.submit(both_stages, settings, folder, task) for task in TASKS]):
            yield from done.result()


def gradients(ours: Ours, batch: Any, together: bool) -> list[torch.Tensor]:
    """Of a step of stage 2, under DDP where `together`."""
    method = ours.stages[1].train()
    method.zero_grad()

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.method = method

        def forward(self) -> torch.Tensor:
            terms, output = self.method.objective(batch, torch.Generator().manual_seed(0))
            assert output is not None
            return torch.stack([(output - batch["target"]).abs().mean(), *terms.values()]).sum()

    step: torch.nn.Module = torch.nn.parallel.DistributedDataParallel(Step()) if together else Step()
    step().backward()
    return [weight.grad.clone() for weight in method.parameters() if weight.grad is not None]


def nccl(settings: dict[str, str], folder: Path) -> Found:
    device = settings["device"]
    backend = "nccl" if device == "cuda" else "gloo"
    ours = Ours("diffi2i", "inpainting", "smoke", device, CHANNELS_LAST)
    batch = batch_of(ours.config, 64, 4, device)
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    try:
        alone, again, under = (gradients(ours, batch, together) for together in (False, False, True))
    finally:
        dist.destroy_process_group()

    def apart(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
        return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))

    largest = max(float(each.abs().max()) for each in alone)
    if apart(alone, under) > 1e-4 * largest:
        raise RuntimeError(
            f"gradients under {backend} are {apart(alone, under):.1e} apart, the largest is {largest:.1e}"
        )
    facts = {"apart under DDP": apart(alone, under), "apart without": apart(alone, again)}
    yield backend, facts | {"largest gradient": largest, "weights": len(alone)}


def resume(settings: dict[str, str], folder: Path) -> Found:
    steps = [
        "task=sisr",
        "budget=smoke",
        "method=diffi2i_s1",
        "train.phases=[]",
        "train.steps=60",
        "train.epoch_steps=5",
    ]
    for name in ("whole", "again"):
        call(*training(settings, folder / name, *steps))
    words = [sys.executable, *training(settings, folder / "stopped", *steps)]
    stops = 0
    for epochs in (1, 6):
        begun = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        mark, seen = folder / "stopped" / "checkpoints" / "last.ckpt", set[int]()
        while begun.poll() is None and len(seen) < epochs:
            with suppress(FileNotFoundError):
                seen.add(mark.stat().st_mtime_ns)
            time.sleep(POLL_SECONDS)
        if begun.poll() is None:
            begun.send_signal(signal.SIGKILL)
            stops += 1
        begun.wait()
    call(*training(settings, folder / "stopped", *steps))
    weights = {name: load_file(folder / name / "weights.safetensors") for name in ("whole", "again", "stopped")}

    def apart(one: str, other: str) -> float:
        pairs = [(weights[one][key], weights[other][key]) for key in weights[one]]
        return max(float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel())

    facts = {
        "kills": stops,
        "stopped from whole": apart("stopped", "whole"),
        "again from whole": apart("again", "whole"),
    }
    if facts["stopped from whole"] > 10 * facts["again from whole"]:
        raise RuntimeError(f"a resumed training differs by more than a repeated one: {facts}")
    yield "resume", facts


def compiling(settings: dict[str, str], _: Path) -> Found:
    sizes = [f"size={settings['size']}", f"batch={settings['batch']}", f"device={settings['device']}"]
    for what in ("inference", "training"):
        printed = call(str(ROOT / "benchmarks" / "compiled.py"), what, *sizes, "rounds=9")
        yield what, {"said": printed.strip().splitlines()[-1]}


def speed(settings: dict[str, str], _: Path) -> Found:
    shared = {"budget": "paper" if settings["device"] == "cuda" else "smoke", "rounds": "9"}
    shared |= {key: settings[key] for key in ("size", "device")}
    for task in SIZES:
        for what, batch in (("inference", "1"), ("inference", settings["batch"]), ("training", settings["batch"])):
            case = shared | {"task": task, "batch": batch}
            timings, memory = measured(what, case)
            for name, timing in timings.items():
                facts = {"ms": round(timing.ms, 2), "peak MiB": round(memory[name])}
                times = timing.times_faster_than(timings[against(name)])
                yield f"{what} {task} x{batch}, {name}", facts | {"times faster than DiffIR": times}


def reduced(settings: dict[str, str], folder: Path) -> Found:
    steps = int(settings["steps"])
    budget = "reduced" if settings["device"] == "cuda" else "smoke"
    call(
        *training(
            settings, folder / "run", "task=sisr", f"budget={budget}", "method=diffi2i_s1", f"train.steps={steps}"
        )
    )
    facts = of_record(folder / "run")
    yield f"sisr, {budget}, {steps} steps", facts | {"steps a second": round(steps / facts["seconds"], 2)}


PARTS: dict[str, Callable[[dict[str, str], Path], Found]] = {
    "tasks": tasks, "nccl": nccl, "resume": resume, "compile": compiling, "speed": speed, "reduced": reduced,
}  # fmt: skip


def shown(facts: Facts) -> str:
    rounded = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in facts.items()}
    return re.sub(r'["{}]', "", json.dumps(rounded))


def page(home: Path) -> str:
    """All parts whose files lie there, in one table."""
    rows, cards = [["part", "what", "found"]], set[str]()
    for part in PARTS:
        if not (home / f"{part}.json").is_file():
            continue
        content = json.loads((home / f"{part}.json").read_text(encoding="utf-8"))
        cards.add(f"{content['card']}, torch {content['torch']}")
        why = content[FAILED]
        rows += [[part, "all", f"failed: {why}" if why else f"done in {content['seconds']} s"]]
        rows += [[part, what, shown(each)] for what, each in content["facts"].items()]
    return f"{'; '.join(sorted(cards))}\n\n{markdown(rows)}\n"


def works(part: str, settings: dict[str, str], home: Path, card: str) -> bool:
    """Whether all of the part does; what it finds is kept as it comes."""
    begun, facts, why = time.monotonic(), dict[str, Facts](), "it was stopped"

    def keep() -> None:
        content = {"card": card, "torch": torch.__version__, "seconds": round(time.monotonic() - begun)}
        text = json.dumps(content | {FAILED: why, "facts": facts}, indent=1)
        (home / f"{part}.json").write_text(text + "\n", encoding="utf-8")
        (home / "check.md").write_text(page(home), encoding="utf-8")

    with TemporaryDirectory() as scratch:
        try:
            for name, found in PARTS[part](settings, Path(scratch)):
                facts[name] = found
                keep()
            why = ""
        except RuntimeError as error:
            why = str(error)
    keep()
    print(f"    {f'failed: {why}' if why else 'done'}", flush=True)
    return not why and not any(FAILED in found for found in facts.values())


def main(words: Sequence[str]) -> int:
    settings = given(DEFAULTS, words)
    chosen = [part for part in settings["only"].strip("[]").split(",") if part] or list(PARTS)
    if unknown := [part for part in chosen if part not in PARTS]:
        raise SystemExit(f"only={unknown[0]}: write some of {', '.join(PARTS)}")
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        print("gpu-check: torch sees no GPU here, so there is nothing to check")
        return 2
    card = torch.cuda.get_device_name() if settings["device"] == "cuda" else "cpu"
    named = re.sub(r"\W+", "-", card).strip("-").lower()
    home = Path(settings["folder"]) if settings["folder"] else ROOT / "experiments" / "results" / "gpu" / named
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_MODE", "disabled")
    failed = False
    for number, part in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {part}", flush=True)
        failed |= not works(part, settings, home, card)
    print(f"\n{home / 'check.md'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
