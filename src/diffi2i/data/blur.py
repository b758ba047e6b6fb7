"""Blur by convolution, and the camera-shake degradation built on it."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffi2i.data.resize import quantize


def convolve(image: Tensor, kernel: Tensor) -> Tensor:
    """Filter every channel with one kernel; borders are mirrored without repeating the edge pixel ("reflect").

    By the Fourier transform: the cost does not grow with the kernel, and no GPU rounds it to TF32 as it does
    convolutions.

    Args:
        image: (C, H, W) float32, of any size: where the mirror image is too short, it is mirrored again.
        kernel: (k, k) with odd k.

    Returns:
        (C, H, W) float32.
    """
    reach = kernel.shape[-1] // 2
    for dim in (-1, -2):
        n = image.shape[dim]
        period = max(1, 2 * n - 2)
        index = torch.arange(-reach, n + reach, device=image.device) % period
        image = image.index_select(dim, torch.where(index < n, index, period - index))
    size = image.shape[-2:]
    spectrum = torch.fft.rfft2(image) * torch.fft.rfft2(kernel.to(image), s=size)
    # The product wraps around the border; the first 2 * reach rows and columns are those it spoils.
    filtered: Tensor = torch.fft.irfft2(spectrum, s=size)
    return filtered[..., 2 * reach :, 2 * reach :]


def trajectory(
    length: float,
    steps: int,
    anxiety: float,
    gaussian: float,
    centripetal: float,
    impulse: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.complex128]:
    """The path of a shaken camera during one exposure, after Boracchi and Foi (2012).

    A point moves with a velocity of constant magnitude whose direction changes at every step by a random push, by a
    pull back to where it began, and, now and then, by an abrupt turn of nearly half a circle.

    Args:
        length: length of the path in pixels.
        steps: number of positions, >= 2.
        anxiety: common factor of the three changes; 0 gives a straight line.
        gaussian: strength of the push.
        centripetal: strength of the pull, per pixel of distance.
        impulse: `impulse * anxiety` is the chance of a turn at each step.
        rng: where the randomness comes from.

    Returns:
        (steps,) complex, x + iy in pixels, with mean 0.
    """
    stride = length / (steps - 1)
    push = (rng.standard_normal(steps) + 1j * rng.standard_normal(steps)).tolist()
    turns = (rng.random(steps) < impulse * anxiety).tolist()
    half_circle = np.exp(1j * (math.pi + rng.uniform(-0.5, 0.5, steps))).tolist()
    velocity = stride * complex(np.exp(2j * math.pi * rng.random()))
    position = 0j
    path = [position]
    for step in range(1, steps):
        change = anxiety * stride * (gaussian * push[step] - centripetal * position)
        if turns[step]:
            change += 2 * velocity * half_circle[step]
        velocity += change
        velocity *= stride / abs(velocity)
        position += velocity
        path.append(position)
    points = np.array(path)
    centred: npt.NDArray[np.complex128] = points - points.mean()
    return centred


def rasterize(path: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
    """Exposure of each pixel along a path: (k, k) float64 with odd k, sum 1, pixel (k // 2, k // 2) at the origin.

    Every position is shared out bilinearly among its four pixels, which keeps the path's centroid exactly.
    """
    reach = math.ceil(max(np.abs(path.real).max(), np.abs(path.imag).max()))
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    x, y = path.real + reach, path.imag + reach
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = (1 - np.abs(x - left - right)) * (1 - np.abs(y - top - down))
            np.add.at(kernel, (top + down, left + right), share / len(path))
    return kernel[:-1, :-1]


class CameraShake:
    """Blur along a random camera path, in linear light, plus a little noise, rounded to 8 bits.

    The kernel's centroid is its centre, so the input is not shifted against the target. The ranges' defaults are
    those of DeblurGAN (Kupyn et al. 2018; github.com/KupynOrest/DeblurGAN, `motion_blur/`): a path of 60 pixels,
    exposed for a tenth of the time up to all of it, is here one of 6 to 60 pixels. Every range is drawn from uniformly.
    """

    scale = 1
    on_device = True

    def __init__(
        self,
        length: tuple[float, float] = (6.0, 60.0),
        anxiety: tuple[float, float] = (0.001, 0.01),
        gaussian: tuple[float, float] = (0.0, 10.0),
        centripetal: tuple[float, float] = (0.0, 0.7),
        impulse: tuple[float, float] = (0.0, 0.2),
        noise: tuple[float, float] = (0.0, 2.0),
        gamma: float = 2.2,
        steps: int = 2000,
    ) -> None:
        """Store the distribution.

        Args:
            length: range of the path's length in pixels.
            anxiety: range of the common factor of the shakes.
            gaussian: range of the random push's strength.
            centripetal: range of the pull's strength.
            impulse: range of the chance of an abrupt turn, relative to the anxiety.
            noise: range of the Gaussian noise's standard deviation, in 8-bit grey levels.
            gamma: light is pixel ** gamma; 1 blurs the pixel values themselves.
            steps: positions along a path.
        """
        self.length, self.anxiety, self.gaussian = length, anxiety, gaussian
        self.centripetal, self.impulse, self.noise = centripetal, impulse, noise
        self.gamma, self.steps = gamma, steps

    def kernel(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Draw a blur kernel: (k, k) float64 with odd k, sum 1, its centroid at its centre."""
        length, anxiety, gaussian, centripetal, impulse = (
            rng.uniform(*ends) for ends in (self.length, self.anxiety, self.gaussian, self.centripetal, self.impulse)
        )
        return rasterize(trajectory(length, self.steps, anxiety, gaussian, centripetal, impulse, rng))

    def __call__(self, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """(3, H, W) in [0, 1] -> {"input": (3, H, W) in [0, 1] at multiples of 1/255}, on the target's device."""
        kernel = torch.from_numpy(self.kernel(rng))
        sigma = rng.uniform(*self.noise) / 255
        # On the CPU, whatever the device: another device's generator gives other numbers.
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        noise = sigma * torch.randn(target.shape, generator=generator)
        with torch.no_grad(), torch.autocast(target.device.type, enabled=False):
            light = convolve(target.float() ** self.gamma, kernel)
            blurred = light.clamp(0, 1) ** (1 / self.gamma)
            return {"input": quantize(blurred + noise.to(target.device))}

    def batch(self, target: Tensor, rngs: Sequence[np.random.Generator]) -> dict[str, Tensor]:
        """(B, 3, H, W) and a generator for each -> {"input": (B, 3, H, W)}, each as by `__call__`."""
        return {"input": torch.stack([self(x, rng)["input"] for x, rng in zip(target, rngs, strict=True)])}
