"""The kept comparisons with DiffIR as docs/performance.md shows them: python benchmarks/timings.py"""

import json
from pathlib import Path
from typing import Any

from interleaved import Timing
from speed import KEPT, REFERENCE

from diffi2i.tables.markdown import markdown

RESULTS = Path(__file__).resolve().parent / "results"
TASKS = {"inpainting": "inpainting", "sisr": "x4 super-resolution", "deblur": "deblurring"}
HEAD = [
    "sizes of", "", "DiffIR, fp32, ms", "fp32, ms", "bf16, ms", "times faster, fp32", "times faster, bf16",
    "DiffIR with memory kept, fp32", "bf16", "memory of DiffIR's, fp32", "bf16",
]  # fmt: skip


def row(found: dict[str, Any], stage: str) -> list[str]:
    """A line of the table: a prediction, or a training step of a stage."""
    names = {"theirs": REFERENCE, "kept": REFERENCE + KEPT, "fp32": "DiffI2I, fp32", "bf16": "DiffI2I, bf16"}
    cases = {short: found["cases"].get(name + stage) for short, name in names.items()}
    times = {short: Timing(case["wall"], case["cpu"]) for short, case in cases.items() if case}
    ours = ("fp32", "bf16")
    ratios = [
        times[each].times_faster_than(times[other]) if other in times else ""
        for other in ("theirs", "kept")
        for each in ours
    ]
    memory = [f"{cases[each]['peak_mb'] / cases['theirs']['peak_mb']:.2f}" for each in ours]
    what = "prediction" if found["what"] == "inference" else f"training step{stage}"
    title = f"{what}, {found['batch']} x {found['size']}x{found['size']}"
    milliseconds = [f"{times[short].ms:.0f}" for short in ("theirs", *ours)]
    return [TASKS[found["task"]], title, *milliseconds, *ratios, *memory]


def table() -> str:
    """All of benchmarks/results, as Markdown."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in RESULTS.glob("*.json")]
    order = sorted(
        found, key=lambda each: (each["what"], [*TASKS].index(each["task"]), int(each["size"]), int(each["batch"]))
    )
    rows = [row(each, stage) for each in order for stage in stages(each)]
    return markdown([HEAD, *rows])


def twice() -> str:
    """What computing blocks twice costs and saves, against bf16 without."""
    head = ["training step, bf16", "seconds, times as many", "memory, times as much"]
    rows = [head]
    for file in sorted(RESULTS.glob("training-*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        for stage in stages(found):
            plain, again = (found["cases"][f"DiffI2I, bf16{more}{stage}"] for more in ("", ", blocks twice"))
            one, other = (Timing(each["wall"], each["cpu"]) for each in (plain, again))
            rows.append([
                f"{TASKS[found['task']]}{stage}, {found['batch']} x {found['size']}x{found['size']}",
                one.times_faster_than(other), f"{again['peak_mb'] / plain['peak_mb']:.2f}",
            ])  # fmt: skip
    return markdown(rows)


def stages(found: dict[str, Any]) -> list[str]:
    return [""] if found["what"] == "inference" else [", stage 1", ", stage 2"]


if __name__ == "__main__":
    print(f"{table()}\n\n{twice()}")
