"""A method's diffusion and sampler, from its options, and the step that denoisers of images share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from diffi2i.config.build import build
from diffi2i.config.schema import one_of
from diffi2i.diffusion.samplers import Sampler
from diffi2i.diffusion.schedule import Schedule, cosine, linear, sqrt_linear
from diffi2i.errors import UserError
from diffi2i.models.precision import at_least_float32


@dataclass
class Diffusion:
    """`steps` is T; see `diffusion.schedule.Schedule`. `cosine` has no use for `beta_1` and `beta_T`."""

    steps: int = 4
    beta_1: float = 0.1
    beta_T: float = 0.99
    schedule: str = "linear"
    prediction: str = "x0"


def schedule_of(diffusion: Diffusion) -> Schedule:
    """Raises `UserError` for betas that are none, or a prediction or schedule that there is not."""
    betas = {"linear": linear, "sqrt_linear": sqrt_linear, "cosine": lambda steps, *_: cosine(steps)}
    one_of("method.diffusion.schedule", diffusion.schedule, list(betas))
    if diffusion.steps < 1 or not 0 < diffusion.beta_1 <= diffusion.beta_T < 1:
        raise UserError(
            f"method.diffusion needs steps above 0 and 0 < beta_1 <= beta_T < 1, got {diffusion.steps}, "
            f"{diffusion.beta_1} and {diffusion.beta_T}"
        )
    try:
        return Schedule(
            betas[diffusion.schedule](diffusion.steps, diffusion.beta_1, diffusion.beta_T),
            diffusion.prediction,  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise UserError(f"method.diffusion: {error}") from error


def sampler_of(node: dict[str, Any], schedule: Schedule, key: str = "method.sampler") -> Sampler:
    """The sampler of a Hydra partial, tried on a single number.

    Raises:
        UserError: there is no such sampler, an argument is not of its type, or its steps do not fit the schedule.
    """
    sampler: Sampler = build(node, key)
    try:
        if isinstance(sampler, partial):
            types = get_type_hints(sampler.func)
            for name, value in sampler.keywords.items():
                if name in types:
                    TypeAdapter(types[name]).validate_python(value)
        sampler(lambda x, _: x, torch.zeros(1), schedule, lambda _: torch.zeros(1))
    except ValidationError as error:
        raise UserError(f"{key}.{name}={value}: {error.errors()[0]['msg']}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {error}") from error
    return sampler


def denoised(
    network: Callable[..., Tensor], x_t: Tensor, t: Tensor | int, steps: int, condition: Tensor | None
) -> Tensor:
    """What the network predicts, float32, of `x_t` (B, C, h, w) at `t` of `steps` (an int, or int64 (B,)).

    It sees the condition (B, ..., h, w), where there is one, as further channels.
    """
    time = torch.as_tensor(t, device=x_t.device).expand(len(x_t)) / steps
    seen = x_t if condition is None else torch.cat([x_t, condition], dim=1)
    return at_least_float32(network(seen.contiguous(memory_format=torch.channels_last), time))


def x0_of(
    network: Callable[..., Tensor], x_t: Tensor, t: int, schedule: Schedule, condition: Tensor | None, bounded: bool
) -> Tensor:
    """The x_0 that the network predicts, see `denoised`; within [-1, 1] where codes are `bounded` so."""
    x0 = schedule.x0(x_t, t, denoised(network, x_t, t, schedule.steps, condition))
    return x0.clamp(-1, 1) if bounded else x0
