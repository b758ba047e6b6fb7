"""What a forward pass of DiffI2I costs by kind of layer, and what this machine could do it in.

    python benchmarks/roofline.py [task=inpainting] [budget=paper] [size=256] [precision=fp32] [rounds=9]

For each kind of layer: multiply-accumulates; bytes of inputs, weights and outputs, each once; the floor, the longer of
what they take at the machine's measured rates of a dense convolution and of copying; the time of those layers alone,
each run by itself on its own shapes; and the time that they take inside the network. All in one process, in turn.
"""

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from interleaved import given, interleaved
from speed import batch_of
from torch import Tensor, nn

from diffi2i.config.compose import load
from diffi2i.config.schema import Config, TrainerConfig
from diffi2i.memory import keep_freed
from diffi2i.methods.build import build_method
from diffi2i.run.hardware import autocast_of, uses_bf16
from diffi2i.tables.markdown import markdown

DEFAULTS = {"task": "inpainting", "budget": "paper", "size": "256", "precision": "fp32", "rounds": "9"}
CHANNELS, SIDE, COPIED = 256, 64, 1 << 24
CONVOLUTIONS = ("1x1 convolution", "3x3 convolution", "depth-wise convolution")


def kind_of(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:
            return CONVOLUTIONS[2]
        return CONVOLUTIONS[0] if module.kernel_size == (1, 1) else CONVOLUTIONS[1]
    return {"LayerNorm": "layer norm", "Linear": "linear"}.get(type(module).__name__, "shuffles, activations")


def leaves(network: nn.Module) -> list[nn.Module]:
    return [each for each in network.modules() if not [*each.children()] and not isinstance(each, nn.ModuleList)]


@dataclass
class Kind:
    """The layers of one kind: their sums, and each one with its input."""

    layers: list[tuple[nn.Module, Tensor]] = field(default_factory=list)
    macs: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)

    def floor(self, flops: float, copy: float) -> float:
        """Seconds, at `flops` and `copy` (bytes) a second."""
        return sum(max(2 * macs / flops, moved / copy) for macs, moved in zip(self.macs, self.bytes, strict=True))


@contextmanager
def watched(network: nn.Module, kinds: dict[str, Kind]) -> Iterator[None]:
    """Adds to each kind's `inside` the seconds that its layers take while a pass runs."""
    begun: dict[nn.Module, float] = {}
    spent: dict[str, float] = defaultdict(float)

    def before(module: nn.Module, _: Any) -> None:
        begun[module] = time.perf_counter()

    def after(module: nn.Module, _: Any, __: Any) -> None:
        spent[kind_of(module)] += time.perf_counter() - begun[module]

    hooks = [
        hook
        for leaf in leaves(network)
        for hook in (leaf.register_forward_pre_hook(before), leaf.register_forward_hook(after))
    ]
    yield
    for hook in hooks:
        hook.remove()
    for name, seconds in spent.items():
        kinds[name].inside.append(seconds)


def layers_of(network: nn.Module, run: Callable[[], object], width: int) -> dict[str, Kind]:
    """The network's layers by kind, `width` bytes a number."""
    kinds: dict[str, Kind] = defaultdict(Kind)

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        kind, (x, *_) = kinds[kind_of(module)], inputs
        weights: list[Tensor] = [*module.parameters()]
        kind.layers.append((module, x))
        kind.macs.append(output.numel() * weights[0][0].numel() if isinstance(module, nn.Conv2d | nn.Linear) else 0)
        kind.bytes.append(width * (x.numel() + output.numel() + sum(each.numel() for each in weights)))

    hooks = [each.register_forward_hook(note) for each in leaves(network)]
    run()
    for hook in hooks:
        hook.remove()
    return kinds


def main() -> None:
    settings = given(DEFAULTS, sys.argv[1:])
    keep_freed()  # as commands do
    config = load(Config, "train", [f"task={settings['task']}", f"budget={settings['budget']}", "train.loss=l1"])
    method: Any = build_method(config, None).eval()
    batch, rounds = batch_of(config, int(settings["size"]), 1, "cpu"), int(settings["rounds"])
    trainer = TrainerConfig(accelerator="cpu", precision=settings["precision"])
    dtype = torch.bfloat16 if uses_bf16(trainer) else torch.float32
    network, image = method.network, method.seen(batch)
    z = torch.rand(1, config.model.prior_dim)
    with torch.inference_mode(), autocast_of(trainer):

        def forward() -> Tensor:
            output: Tensor = network(image, z)
            return output

        conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        pixels = torch.rand(1, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
        source, target = torch.rand(COPIED), torch.empty(COPIED)
        kinds = layers_of(network, forward, dtype.itemsize)

        def alone(kind: Kind) -> Callable[[], None]:
            def run() -> None:
                for module, x in kind.layers:
                    module(x)

            return run

        def inside() -> None:
            with watched(network, kinds):
                forward()

        names = sorted(kinds, key=lambda name: -sum(kinds[name].macs))
        rates = {"convolution": lambda: conv(pixels), "copy": lambda: target.copy_(source)}
        cases = {"forward": forward, "inside": inside, **{name: alone(kinds[name]) for name in names}}
        found = interleaved(rates | cases, rounds)
    flops = 2 * pixels.numel() * conv.weight[0].numel() / min(found["convolution"].wall)
    copy = 8 * COPIED / min(found["copy"].wall)
    whole = found["forward"].ms
    run = f"{settings['task']}, {settings['size']}x{settings['size']}, {settings['precision']}"
    told = f"a dense convolution {flops / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s, forward {whole:.1f} ms"
    print(f"{run}, {torch.get_num_threads()} threads: {told}\n")
    rows = [["", "layers", "G MACs", "MB", "floor, ms", "alone, ms", "in the network, ms"]]
    for name in names:
        kind = kinds[name]
        own = 1e3 * statistics.median(kind.inside)
        rows.append(
            [name, str(len(kind.layers)), f"{sum(kind.macs) / 1e9:.2f}", f"{sum(kind.bytes) / 1e6:.0f}"]
            + [f"{value:.1f}" for value in (1e3 * kind.floor(flops, copy), found[name].ms, own)]
        )
    sums = 1e3 * sum(statistics.median(kind.inside) for kind in kinds.values())
    rows.append(["gates, pooling, sums (the rest)", "", "", "", "", "", f"{whole - sums:.1f}"])
    print(markdown(rows))
    convolutions = sum(found[name].ms for name in names if name in CONVOLUTIONS)
    macs = sum(sum(kind.macs) for kind in kinds.values())
    print(
        f"\nThe pass does {2e-6 * macs / whole:.0f} GFLOP/s, its convolutions alone {2e-6 * macs / convolutions:.0f}: "
        f"{100 * convolutions / whole:.0f} % of what this machine can do of this mix."
    )


if __name__ == "__main__":
    main()
