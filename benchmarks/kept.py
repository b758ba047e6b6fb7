"""What it saves that a process keeps the memory that it frees (diffi2i/memory.py): docs/performance.md's table.

    python benchmarks/kept.py [rounds=9] [threads=2] [output=<file>.json]

Predictions and training steps of DiffI2I, each in a process that keeps and in one that does not, in turn.
"""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from interleaved import Apart, Timing, given, interleaved, timed_warm
from speed import CHANNELS_LAST, Case, Ours, batch_of, bf16, peak_of

from diffi2i.memory import keep_freed
from diffi2i.tables.markdown import markdown

DEFAULTS = {"rounds": "9", "threads": "2", "output": ""}
KEPT = Path(__file__).resolve().parent / "results" / "kept" / "found.json"
CASES = {
    "`tiny`, a training step, 8 x 64x64, fp32": ("inpainting", "demo model=tiny", 64, 8, "fp32", True),
    "`tiny`, a training step, 8 x 64x64, bf16": ("inpainting", "demo model=tiny", 64, 8, "bf16", True),
    "`tiny_deep`, a training step, 8 x 64x64, fp32": ("inpainting", "demo model=tiny_deep", 64, 8, "fp32", True),
    "`tiny_deep`, a training step, 8 x 64x64, bf16": ("inpainting", "demo model=tiny_deep", 64, 8, "bf16", True),
    "inpainting's size, a training step, 2 x 128x128, bf16": ("inpainting", "paper", 128, 2, "bf16", True),
    "deblurring's size, a training step, 2 x 128x128, bf16": ("deblur", "paper", 128, 2, "bf16", True),
    "inpainting's size, a prediction, 256x256, bf16": ("inpainting", "paper", 256, 1, "bf16", False),
    "inpainting's size, a prediction, 512x512, bf16": ("inpainting", "paper", 512, 1, "bf16", False),
    "deblurring's size, a prediction, 512x512, fp32": ("deblur", "paper", 512, 1, "fp32", False),
    "deblurring's size, a prediction, 8 x 256x256, bf16": ("deblur", "paper", 256, 8, "bf16", False),
}


def made(name: str, keep: bool, threads: int) -> Case:
    """The case, alone in its process."""
    if keep:
        keep_freed()
    torch.set_num_threads(threads)
    task, sizes, side, images, precision, trains = CASES[name]
    budget, *overrides = sizes.split()
    ours = Ours("diffi2i", task, budget, "cpu", CHANNELS_LAST, *overrides)
    batch = batch_of(ours.config, side, images, "cpu")
    within: Callable[[], AbstractContextManager[None]] = partial(bf16, "cpu") if precision == "bf16" else nullcontext
    if trains:
        return partial(ours.step, 0, batch, within)

    def predict() -> None:
        with within():
            ours.predict(batch)

    return predict


def table() -> str:
    """Of the kept measurements, as Markdown."""
    found = json.loads(KEPT.read_text(encoding="utf-8"))["cases"]
    rows = [["DiffI2I", "processor ms without", "with", "times faster", "peak of memory, MiB, without", "with"]]
    for name, both in found.items():
        timings = [Timing(both[which]["wall"], both[which]["cpu"]) for which in ("without", "with")]
        peaks = [f"{both[which]['peak_mb']:.0f}" for which in ("without", "with")]
        times = timings[1].times_faster_than(timings[0])
        rows.append([name, *(f"{timing.cpu_ms:.0f}" for timing in timings), times, *peaks])
    return markdown(rows)


def main() -> None:
    settings = given(DEFAULTS, sys.argv[1:])
    found = {}
    for name in CASES:
        kinds = {"without": False, "with": True}
        apart = {kind: Apart(partial(made, name, keep, int(settings["threads"]))) for kind, keep in kinds.items()}
        timings = interleaved(apart, int(settings["rounds"]), lambda case: case.ask(timed_warm))
        found[name] = {kind: asdict(timings[kind]) | {"peak_mb": apart[kind].ask(peak_of)} for kind in kinds}
        for case in apart.values():
            case.end()
        print(f"{name}: {timings['with'].times_faster_than(timings['without'])}", flush=True)
    if settings["output"]:
        content = {key: settings[key] for key in ("rounds", "threads")} | {"cases": found}
        Path(settings["output"]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
