"""`diffi2i export`: a finished run as a folder to share, and its network as one file."""

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from diffi2i.config.commands import ExportConfig
from diffi2i.config.compose import PATHS
from diffi2i.config.run import read_run_config
from diffi2i.config.schema import Config
from diffi2i.data.degrade import has_holes
from diffi2i.data.images import read_image
from diffi2i.data.sources import photos
from diffi2i.errors import UserError
from diffi2i.files import whole
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Method
from diffi2i.metrics.spec import METRICS
from diffi2i.run.directory import WEIGHTS, is_of_others, load_method, save_weights, write_config
from diffi2i.run.record import Record

MULTIPLE = 8
LARGEST = 4096
"""Pixels that a side of an exported network's input is a multiple of, and may have at most."""
TOLERANCE = 1e-3
"""By how much ONNX Runtime's output may differ, of colours in [0, 1]."""
SIZES = ((64, 80), (128, 96))
"""Of the crops of a photo on which that is checked: others than the one that was traced."""
CARD = "README.md"
IMAGE = "image"
"""What an exported network calls its first input."""


def export(config: ExportConfig) -> Path:
    """Writes `output`: weights, configuration and record of the run, its model card, and what `format` adds.

    Raises:
        UserError: no finished run, a folder that holds something else, a method of more than one network's pass, ONNX
            packages that are missing, or an ONNX network that computes something else.
    """
    run, output = Path(config.run), Path(config.output)
    method = load_method(run, config.set, config.trust).eval()
    if output.is_dir() and any(output.iterdir()) and is_of_others(output, CARD):
        raise UserError(f"{output} is not empty and holds no export: name another")
    if output.exists() and not output.is_dir():
        raise UserError(f"output={output} is no folder: name another")
    network = None if config.format == "safetensors" else exportable(method, config)
    output.mkdir(parents=True, exist_ok=True)
    write_config(output, without_paths(read_run_config(run, config.set, config.trust)))
    save_weights(method, output / WEIGHTS)
    record = Record.read(run) if (run / "result.json").is_file() else None
    if record is not None:
        # Images may be called by what is nobody's business.
        record = replace(record, images=[], baseline_images=[])
        record.write(output / "result.json")
    lines = [] if network is None else written(network, config, output)
    with whole(output / CARD) as place:
        place.write_text(card(method.config, record, config.license, lines), encoding="utf-8")
    print(f"{output}: {', '.join(sorted(file.name for file in output.iterdir()))}")
    return output


def without_paths(config: Config) -> Config:
    """The configuration with the names alone of files and folders, of which others have no use."""

    def clean(value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {name: clean(child, f"{key}.{name}".strip(".")) for name, child in value.items()}
        if isinstance(value, list):
            return [clean(child, key) for child in value]
        if isinstance(value, str) and (PATHS.fullmatch(key) or Path(value).is_absolute()):
            return Path(value).name
        return value

    made: Config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), clean(asdict(config), "")))  # type: ignore[assignment]
    made.run_dir = None
    return made


class Network(nn.Module):
    """A prediction as a function of tensors: of the image, its mask where it has holes, and its noise if it draws some.

    `noise` is the shape that is drawn, without the batch's dimension; empty for none.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.noise: tuple[int, ...] = ()
        size = (1, 3, *SIZES[0])
        self.example = {IMAGE: torch.rand(size, generator=torch.Generator().manual_seed(0))}
        if has_holes(method.config.task):
            self.example["mask"] = (torch.rand(1, 1, *SIZES[0]) > 0.5).float()
        drawn: list[tuple[int, ...]] = []

        def watch(shape: Any, *_: str) -> Tensor:
            drawn.append(tuple(shape))
            return torch.zeros(1, *shape)

        batch: Batch = {"input": self.example[IMAGE], "name": [""]}
        if "mask" in self.example:
            batch["mask"] = self.example["mask"]
        guided = method.guided(batch, watch)
        if guided is None or len(drawn) > 1:
            raise UserError(f"method={method.config.method['name']} makes several passes: format=safetensors is for it")
        if drawn:
            self.noise = drawn[0]
            self.example["noise"] = torch.randn(1, *self.noise, generator=torch.Generator().manual_seed(0))

    def forward(self, image: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        batch: Batch = {"input": image, "name": [""]}
        if mask is not None:
            batch |= {"input": image * (1 - mask), "mask": mask}
        output = self.method.predict(batch, lambda *_: noise)  # type: ignore[arg-type]
        return output if mask is None else torch.where(mask > 0, output, image)


def exportable(method: Method, config: ExportConfig) -> Network:
    """Raises `UserError`: a prediction that is more than one pass, of no image, or packages that are missing."""
    if method.sees_target:
        raise UserError(f"run={config.run} needs the ground truth: name a run of another method")
    wanted = ("onnx", "onnxscript", "onnxruntime") if config.format == "onnx" else ()
    if missing := [package for package in wanted if importlib.util.find_spec(package) is None]:
        raise UserError(f"format=onnx needs {missing[0]}: pip install 'diffi2i[export]'")
    if config.quantise and method.config.method.get("int8"):
        raise UserError(f"run={config.run} has weights in 8 bits already: write quantise=false")
    with torch.no_grad():
        return Network(method)


def traced(network: Network) -> torch.export.ExportedProgram:
    """With any height and width that are multiples of 8."""
    most = LARGEST // MULTIPLE
    sides = {
        2: MULTIPLE * torch.export.Dim("height", min=2, max=most),
        3: MULTIPLE * torch.export.Dim("width", min=2, max=most),
    }
    shapes = {name: None if name == "noise" else sides for name in network.example}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (), dict(network.example), dynamic_shapes=shapes)


def written(network: Network, config: ExportConfig, output: Path) -> list[str]:
    """Writes the network, and says of each file in a line what it is and how it was checked."""
    program = traced(network)
    if config.format == "torch_export":
        file = output / "model.pt2"
        with whole(file) as place:
            torch.export.save(program, place)
        return [f"`{file.name}`: torch.export, {inputs_of(network)}; torch.export.load(file).module()(**inputs)"]
    file = output / "model.onnx"
    with warnings.catch_warnings(), whole(file) as place:
        warnings.simplefilter("ignore")
        made = torch.onnx.export(program, dynamo=True, verbose=False)
        assert made is not None
        made.save(place)
        worst = max(difference.max() for difference in compared(network, place))
        if worst > TOLERANCE:
            raise UserError(f"ONNX Runtime's output is {worst:.1e} away from torch's: not exported")
    lines = [
        f"`{file.name}`: ONNX, {inputs_of(network)}; on crops of a photo ONNX Runtime's output is at most {worst:.1e} "
        f"away from torch's ({file.stat().st_size / 2**20:.1f} MiB)"
    ]
    if config.quantise:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        eighth = output / "model.int8.onnx"
        with whole(eighth) as place:
            quantize_dynamic(file, place, weight_type=QuantType.QUInt8)
            error = float(np.mean([np.square(difference).mean() for difference in compared(network, place)]))
        lines.append(
            f"`{eighth.name}`: weights and activations in 8 bits ({eighth.stat().st_size / 2**20:.1f} MiB); its output "
            f"has {-10 * np.log10(error):.1f} dB PSNR to the other's"
        )
    return lines


def inputs_of(network: Network) -> str:
    """What a user gives it."""
    said = ["image (1, 3, H, W), RGB in [0, 1], H and W multiples of 8"]
    said += ["mask (1, 1, H, W), 1 = hole"] if "mask" in network.example else []
    said += [f"noise {(1, *network.noise)}, standard normal"] if network.noise else []
    return "; ".join(said)


def compared(network: Network, file: Path) -> list[np.ndarray[Any, Any]]:
    """The absolute differences between ONNX Runtime's output and torch's, on crops of a photo."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes())
    photo, found = read_image(Path(photos("val")[0].target)), []
    for height, width in SIZES:
        inputs = network.example | {IMAGE: photo[..., 100 : 100 + height, 150 : 150 + width]}
        if "mask" in inputs:
            inputs["mask"] = torch.zeros(1, 1, height, width)
            inputs["mask"][..., 20:40, 30:60] = 1
        with torch.no_grad():
            ours = network(**inputs).numpy()
        (theirs,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        found.append(np.abs(ours - theirs))
    return found


def size(record: Record | None) -> str:
    """How large the network is, and how much training it has had in all."""
    if record is None or record.cost is None:
        return ""
    steps = record.training.network_steps if record.training else None
    trained = "" if steps is None else f", trained for {steps:,} steps in all"
    return f" It has {record.cost.parameters / 1e6:.1f} million parameters{trained}."


def card(config: Config, record: Record | None, license: str, lines: list[str]) -> str:
    """The model card: what it is, what it was trained on, how good, how to use it, what it is not."""
    task, method, train = config.task.name, config.method["name"], config.train
    title = f"{method} for {task}, {config.model.name}"
    parts = [
        "---", "library_name: diffi2i", f"license: {license}", f"tags: [diffi2i, {task}]", "---", "", f"# {title}", "",
        f"Trained by DiffI2I's open implementation: `method={method}`, "
        f"`model={config.model.name}`, `budget={config.budget}`, {train.steps:,} steps of {train.batch} crops of "
        f"{train.patch} pixels, seed {config.seed}, on `dataset={config.dataset.name}`." + size(record), "",
    ]  # fmt: skip
    if license == "other":
        parts += ["The licence of the training data holds for what is made of them: name it before you share this.", ""]
    if record is not None:
        parts += [f"## Scores\n\nOn {record.data.dataset}, with 95 % intervals over the images:\n"]
        parts += ["| score | value | input itself, or a constant | images |", "|---|---|---|---|"]
        for key, score in record.scores.items():
            if score.value is None:
                continue
            metric = METRICS[key]
            value, low, high, base = (
                "" if each is None else f"{each * metric.unit:.{metric.digits}f}"
                for each in (score.value, score.low, score.high, score.baseline)
            )
            parts.append(
                f"| {metric.heading}{metric.arrow} | {value}{f' [{low}, {high}]' if low else ''} | {base} | {score.n} |"
            )
        parts += [""]
        if record.provenance.commit:
            parts += [f"Made by commit {record.provenance.commit} on {record.provenance.date[:10]}.", ""]
    hole = ", mask" if has_holes(config.task) else ""
    parts += [
        "## Use", "", "    import diffi2i", '    restored = diffi2i.load("<this folder>")(image' + hole + ")", "",
        "    diffi2i predict run=<this folder> input=photos/ output=restored/" + (" mask=masks/" if hole else ""), "",
        *(f"- {line}" for line in lines), *([""] if lines else []),
        "## Limits", "",
        f"It has seen the degradation of `task={task}` alone, on the data above, for `budget={config.budget}`: on "
        "other pictures it may do less, or harm. What it draws in place of what is not there is a guess.", "",
    ]  # fmt: skip
    return "\n".join(parts)
