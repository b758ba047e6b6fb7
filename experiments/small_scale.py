"""All six tasks on small real data sets at scale=demo: both stages, the variant without diffusion, and the baselines.

    python experiments/small_scale.py data=<folder of the data sets> [runs=outputs/small_scale] [workers=2]

Trains what is missing, one thread a worker, then writes `experiments/results/small_scale.{json,md}`. Called again it
goes on where it stopped. The folder holds bsds500, imagenet1000_256, inpainting_faces, realsr_val, set5, camvid and
sevenscenes, as the README describes them.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from diffi2i.metrics import LOWER_IS_BETTER

RESULTS = Path(__file__).parent / "results"


class Experiment(NamedTuple):
    """One task on one data set. `train` and `evaluation` are overrides; {data} is the folder of the data sets."""

    name: str
    train: list[str]
    evaluation: list[str] | None = None
    seeds: int = 1
    without_gan: bool = False


INPAINTING = [
    "task=inpainting",
    "dataset=folder",
    "root={data}/imagenet1000_256",
    "task.degrade.mask=[{_target_: diffi2i.data.masks.wide}]",
]
FACES = ["dataset=folder", "root={data}/inpainting_faces/gt"]
SCENES = ["task.scenes.input_scale=0.5", "task.scenes.aspect=1.3333"]
CAMVID = ["task=segmentation", "dataset=camvid", "root={data}/camvid", "train.patch=168", *SCENES]
EXPERIMENTS = [
    Experiment("inpainting", INPAINTING, FACES, seeds=3),
    Experiment("inpainting-smooth", [*INPAINTING, "task.fill=smooth", "train.steps=200"], FACES),
    Experiment(
        "inpainting-smooth-128",
        [*INPAINTING, "task.fill=smooth", "train.steps=200", "train.patch=128", "train.val_crop=128"],
        FACES,
    ),
    Experiment(
        "realsr",
        ["task=realsr", "dataset=folder", "root={data}/bsds500/train", "dataset.max_val_images=8"],
        [
            "dataset=pairs",
            "root={data}/realsr_val",
            "dataset.source.input_dir=lq",
            "dataset.source.target_dir=gt",
        ],
        seeds=3,
        without_gan=True,
    ),
    Experiment("segmentation", CAMVID),
    Experiment("segmentation-lite0", [*CAMVID, "model=segment_lite0"]),
    Experiment(
        "depth",
        [
            "task=depth",
            "model=depth_lite0",
            "dataset=sevenscenes",
            "root={data}/sevenscenes",
            "train.patch=112",
            *SCENES,
        ],
    ),
    Experiment(
        "sisr", ["task=sisr", "dataset=folder", "root={data}/bsds500/train", "dataset.source.val_root={data}/set5/HR"]
    ),
    Experiment("deblur", ["task=deblur", "dataset=folder", "root={data}/bsds500/train", "dataset.max_val_images=20"]),
]


def command(name: str, overrides: list[str], data: Path) -> float:
    """Runs `diffi2i <name> ...` on one thread. Returns its processor time in seconds, start to end.

    Unlike wall time, it hardly depends on what else the machine does.
    """
    arguments = [override.replace("{data}", str(data)) for override in overrides]
    with tempfile.TemporaryFile("w+") as log:
        started = [sys.executable, "-m", "diffi2i", name, *arguments, "trainer.threads=1"]
        child = subprocess.Popen(started, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(child.pid, 0)
        log.seek(0)
        failed = status and log.read()[-2000:]
    print(f"{'FAILED' if failed else 'done'}: diffi2i {name} {' '.join(arguments)}", flush=True)
    if failed:
        raise RuntimeError(failed)
    return usage.ru_utime + usage.ru_stime


def chain(experiment: Experiment, seed: int, runs: Path, data: Path) -> None:
    """Stage 1, then what starts from it, each evaluated."""
    base = runs / experiment.name / f"seed{seed}"
    common = [*experiment.train, f"seed={seed}", "logger=none", "validation.every_epochs=1000"]
    stages = {"s1": ["stage=pretrain"]}
    joint = ["stage=joint", f"stage.init={base / 's1'}"]
    stages |= {"s2": joint, "v1": [*joint, "stage.prior=none"]}
    if experiment.without_gan and seed == 0:
        stages |= {"s2-l1": [*joint, "train.loss=l1"]}
    for name, overrides in stages.items():
        run = base / name
        if not (run / "result.json").is_file():
            seconds = command("train", [*common, *overrides, f"run_dir={run}"], data)
            (run / "cpu_seconds").write_text(f"{seconds:.0f}\n")
        if experiment.evaluation and not (run / "eval" / "held-out" / "result.json").is_file():
            command("eval", [f"run={run}", *experiment.evaluation, f"output={run / 'eval' / 'held-out'}"], data)


def record(run: Path) -> dict[str, Any]:
    result = json.loads((run / "result.json").read_text())
    keys = (
        "task",
        "dataset",
        "model",
        "stage",
        "prior",
        "scale",
        "seed",
        "main_metric",
        "n_images",
        "metrics",
        "baseline",
    )
    more = ("steps", "wall_time_s", "parameters", "macs", "commit", "hardware", "date", "loss")
    kept = {key: result[key] for key in (*keys, *more) if key in result}
    seconds = run / "cpu_seconds"
    return kept | ({"cpu_seconds": int(seconds.read_text())} if seconds.is_file() else {})


def collect(runs: Path) -> dict[str, dict[str, Any]]:
    """The records of all finished runs by `<experiment>/<seed>/<stage>`, and of their evaluations."""
    records = {}
    for file in sorted(runs.rglob("result.json")):
        records[file.parent.relative_to(runs).as_posix()] = record(file.parent)
    return records


def cell(values: list[float]) -> str:
    digits = 4 if max(map(abs, values)) < 2 else 2
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(records: dict[str, dict[str, Any]]) -> str:
    """One row per experiment and set of images; each cell the mean over the seeds and their standard deviation."""
    lines = [
        "| experiment | images | metric | baseline | stage 1 (sees GT) | stage 2 | no diffusion (V1) "
        "| stage 2, L1 alone | prior_dependence stage 1 / 2 | processor minutes, both stages |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for experiment in EXPERIMENTS:
        for suffix in ("", "/eval/held-out"):
            stages = {
                stage: [
                    found
                    for seed in range(experiment.seeds)
                    if (found := records.get(f"{experiment.name}/seed{seed}/{stage}{suffix}"))
                ]
                for stage in ("s1", "s2", "v1", "s2-l1")
            }
            if not stages["s2"]:
                continue
            first = stages["s2"][0]
            key = first["main_metric"]
            values = {
                stage: cell([float(found["metrics"][key]) for found in ones]) if ones else ""
                for stage, ones in stages.items()
            }
            gain = " / ".join(
                cell([float(found["metrics"]["prior_dependence"]) for found in stages[stage]]) for stage in ("s1", "s2")
            )
            minutes = ""
            if not suffix:
                pairs = list(zip(stages["s1"], stages["s2"], strict=False))
                if all("cpu_seconds" in found for pair in pairs for found in pair):
                    minutes = f"{statistics.mean(a['cpu_seconds'] + b['cpu_seconds'] for a, b in pairs) / 60:.1f}"
            baseline = cell([float(found["baseline"][key]) for found in stages["s2"]])
            arrow = "↓" if key in LOWER_IS_BETTER else "↑"
            images = f"{first['n_images'][key]} of {first['dataset']['name']}{suffix}"
            lines.append(
                f"| {experiment.name} | {images} | {key} {arrow} | {baseline} "
                f"| {values['s1']} | {values['s2']} | {values['v1']} | {values['s2-l1']} | {gain} | {minutes} |"
            )
    return "\n".join(lines)


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    runs = Path(options.get("runs", "outputs/small_scale"))
    if "data" in options:
        data = Path(options["data"])
        wanted = options.get("only", ",".join(experiment.name for experiment in EXPERIMENTS)).split(",")
        with ThreadPoolExecutor(int(options.get("workers", 2))) as pool:
            waiting = [
                pool.submit(chain, experiment, seed, runs, data)
                for seed in range(3)
                for experiment in EXPERIMENTS
                if seed < experiment.seeds and experiment.name in wanted
            ]
        for done in waiting:
            if error := done.exception():
                print(error, file=sys.stderr)
    records = collect(runs)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "small_scale.json").write_text(json.dumps(records, indent=1) + "\n")
    (RESULTS / "small_scale.md").write_text(table(records) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
