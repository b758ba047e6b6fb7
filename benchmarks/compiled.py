"""Whether torch.compile pays: what compiling takes, how much faster a prediction or a training step then is.

    python benchmarks/compiled.py inference|training [task=inpainting] [budget=demo] [size=64] [batch=8] [rounds=9]

The networks are compiled for any size, as photos have. Both take turns in one process. After so many runs as the last
line says compiling has earned back its time.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

from interleaved import given, interleaved
from speed import CHANNELS_LAST, Ours, batch_of
from torch import Tensor

DEFAULTS = {"task": "inpainting", "budget": "demo", "size": "64", "batch": "8", "rounds": "9", "device": "cpu"}


def main() -> None:
    what, *words = sys.argv[1:]
    settings = given(DEFAULTS, words)
    task, budget, device = (settings[key] for key in ("task", "budget", "device"))
    plain, compiled = (Ours("diffi2i", task, budget, device, CHANNELS_LAST) for _ in range(2))
    for ours, theirs in zip(compiled.stages, plain.stages, strict=True):
        ours.load_state_dict(theirs.state_dict())
        for part in ours.parts().values():
            part.compile(dynamic=True)
    batch = batch_of(plain.config, int(settings["size"]), int(settings["batch"]), device)

    def run(side: Ours) -> Callable[[], Tensor | None]:
        return lambda: side.predict(batch) if what == "inference" else side.step(1, batch, nullcontext)

    start = time.perf_counter()
    run(compiled)()
    first = time.perf_counter() - start
    found = interleaved({"eager": run(plain), "compiled": run(compiled)}, int(settings["rounds"]))
    if what == "inference":
        apart = (plain.predict(batch) - compiled.predict(batch)).abs().max().item()
        print(f"largest difference of the outputs: {apart:.1e}")
    gained = statistics.median(a - b for a, b in zip(found["eager"].wall, found["compiled"].wall, strict=True))
    back = f"earned back after {first / gained:.0f} runs" if gained > 0 else "never earned back"
    print(
        f"{settings['task']}, {settings['budget']}, {what}: first run {first:.0f} s; eager {found['eager'].ms:.0f} ms, "
        f"compiled {found['compiled'].ms:.0f} ms, {found['compiled'].times_faster_than(found['eager'])} times faster; "
        + back
    )


if __name__ == "__main__":
    main()
