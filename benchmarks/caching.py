"""How much faster DeepCache makes a pixel diffusion, as Markdown: its whole U-Net at every `every`-th step alone.

    python benchmarks/caching.py [size=128] [steps=50] [every=1,2,3,5] [codec=unshuffled] [rounds=5]

The laptop's model with random weights, which cost what others do, `size` at the output, x4 super-resolution in float32.
The cases take turns in one process; `every=1` is the diffusion itself.
"""

import sys
from collections.abc import Callable

import torch
from interleaved import given, interleaved
from speed import batch_of, predicting
from torch import Tensor

from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.methods.build import new_method
from diffi2i.metrics.cost import work
from diffi2i.tables.markdown import markdown

DEFAULTS = {"size": "128", "steps": "50", "every": "1,2,3,5", "codec": "unshuffled", "rounds": "5"}


def prediction(every: str, settings: dict[str, str]) -> tuple[Callable[[], Tensor], int]:
    """One by a new network, and its multiply-accumulates."""
    own = [f"method.every={every}", f"method.sampler.steps={settings['steps']}", f"method.codec={settings['codec']}"]
    config = load(Config, "train", ["task=sisr", "method=deepcache", "method.init=x", *own])
    torch.manual_seed(0)
    method = new_method(config).eval()
    predict = predicting(method, batch_of(config, int(settings["size"]), 1, "cpu"))
    return predict, work(predict, method.parts()).macs


def main() -> None:
    settings = given(DEFAULTS, sys.argv[1:])
    cases = {every: prediction(every, settings) for every in settings["every"].split(",")}
    found = interleaved({every: predict for every, (predict, _) in cases.items()}, int(settings["rounds"]))
    first = next(iter(cases))
    rows = [
        [every, f"{macs / 1e9:.1f}", f"{found[every].ms:.0f}", found[every].times_faster_than(found[first])]
        for every, (_, macs) in cases.items()
    ]
    print(markdown([("every", "G MACs", "ms", f"times faster than every={first} [quartiles]"), *rows]))


if __name__ == "__main__":
    main()
