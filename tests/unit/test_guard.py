"""The gradient before each step, against its norm in float64. Trainings with it: test_identity, test_checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffi2i.callbacks.guard import FiniteSteps


def module_with(gradients: list[np.ndarray[Any, Any]]) -> nn.Module:
    module = nn.ParameterList(nn.Parameter(torch.zeros(each.shape)) for each in gradients)
    for parameter, gradient in zip(module, gradients, strict=True):
        parameter.grad = torch.from_numpy(gradient).float()
    module.append(nn.Parameter(torch.zeros(2)))  # which has none in this step
    return module


@pytest.mark.parametrize("clip", [None, 0.3, 1e3])
def test_a_gradient_longer_than_clip_is_scaled_to_it(clip: float | None) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=shape) for shape in ((3, 4), (5,))]
    norm = float(np.sqrt(np.square(np.concatenate([each.ravel() for each in gradients])).sum()))
    module: Any = module_with(gradients)
    FiniteSteps(Path(), clip).on_before_optimizer_step(None, module, None)  # type: ignore[arg-type]
    factor = clip / norm if clip is not None and clip < norm else 1.0
    for parameter, gradient in zip(module, gradients, strict=False):
        np.testing.assert_allclose(parameter.grad, factor * gradient, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_that_is_no_number_is_taken_away(value: float) -> None:
    module: Any = module_with([np.ones(3), np.array([1.0, value])])
    guard = FiniteSteps(Path(), 1.0)
    guard.norms = []
    guard.keep_statistics()
    guard.on_before_optimizer_step(None, module, None)  # type: ignore[arg-type]
    assert guard.found
    assert all(parameter.grad is None for parameter in module)
