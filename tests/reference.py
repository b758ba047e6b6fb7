"""The paper's equations once more, in plain numpy float64 loops: what the tests hold the torch code against."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Predictor = Callable[[Array, int], Array]
Weights = dict[str, Array]
Betas = tuple[float, ...]


# --- diffusion -------------------------------------------------------------------------------------------------------


def linear_betas(T: int, first: float = 0.1, last: float = 0.99) -> Betas:
    """Section 5.1: beta_1..beta_T linear; entry 0 is a placeholder so that betas[t] is the paper's beta_t."""
    rise = (last - first) / (T - 1)
    return (0.0, *(first + rise * (t - 1) for t in range(1, T + 1)))


@cache
def cumulative(betas: Betas) -> list[float]:
    """alpha_bar_0..alpha_bar_T, the product of Eq. 2 with alpha_0 = 1."""
    bars = [1.0]
    for beta in betas[1:]:
        bars.append(bars[-1] * (1.0 - beta))
    return bars


@cache
def iterate_forward(betas: Betas) -> list[tuple[float, float]]:
    """Eq. 1 applied t times to x_0: the factor on x_0 and the variance, for t = 0..T."""
    factor, variance = 1.0, 0.0
    history = [(factor, variance)]
    for beta in betas[1:]:
        factor = np.sqrt(1.0 - beta) * factor
        variance = (1.0 - beta) * variance + beta
        history.append((factor, variance))
    return history


def diffuse(x0: Array, noise: Array, t: int, betas: Betas) -> Array:
    """A draw of Eq. 2 / Eq. 10 from its noise."""
    factor, variance = iterate_forward(betas)[t]
    return np.asarray(factor * x0 + np.sqrt(variance) * noise)


def noise_mean(x: Array, noise: Array, t: int, betas: Betas) -> Array:
    """Eq. 11, the mean of Eq. 3 as the paper prints it."""
    alpha = 1.0 - betas[t]
    return np.asarray((x - noise * (1.0 - alpha) / np.sqrt(1.0 - cumulative(betas)[t])) / np.sqrt(alpha))


def posterior(x: Array, x0: Array, t: int, betas: Betas) -> tuple[Array, float]:
    """Mean and variance of q(x_{t-1} | x_t, x_0) by Bayes' rule: the product of two Gaussians in x_{t-1}."""
    alpha = 1.0 - betas[t]
    prior_factor, prior_variance = iterate_forward(betas)[t - 1]
    if prior_variance == 0.0:  # t = 1: x_0 is known
        return x0.copy(), 0.0
    seen_mean, seen_variance = x / np.sqrt(alpha), betas[t] / alpha
    precision = 1.0 / prior_variance + 1.0 / seen_variance
    mean = (prior_factor * x0 / prior_variance + seen_mean / seen_variance) / precision
    return mean, 1.0 / precision


def paper_variance(t: int, betas: Betas) -> float:
    """sigma_t^2 of Eq. 3."""
    bars = cumulative(betas)
    return (1.0 - bars[t - 1]) / (1.0 - bars[t]) * betas[t]


def angle(t: int, betas: Betas) -> float:
    """phi_t of Salimans and Ho (2022): x_t = cos(phi) x_0 + sin(phi) noise, and v is its derivative by phi."""
    factor, variance = iterate_forward(betas)[t]
    return float(np.arctan2(np.sqrt(variance), factor))


def x0_of_v(x: Array, v: Array, t: int, betas: Betas) -> Array:
    """The turn by -phi that brings (x_t, v) to (x_0, noise)."""
    phi = angle(t, betas)
    return np.asarray(np.cos(phi) * x - np.sin(phi) * v)


def respace(times: Sequence[int], betas: Betas) -> Betas:
    """The betas of a shorter chain whose i-th step lands on alpha_bar of times[i] (ascending, 1-based)."""
    bars = cumulative(betas)
    short = [0.0]
    before = 1.0
    for t in times:
        short.append(1.0 - bars[t] / before)
        before = bars[t]
    return tuple(short)


def reverse(
    x: Array,
    predict: Predictor,
    kind: str,
    betas: Betas,
    times: Sequence[int] | None = None,
    inserted: Callable[[int], Array] | None = None,
) -> Array:
    """Algs. 1 and 2: `predict(x, t)` gives the noise ("eps"), x_0 ("x0") or "v" at the full chain's t.

    `inserted` gives the standard normal that Eq. 3 inserts at t, None leaves it out.
    """
    visited = list(times) if times is not None else list(range(1, len(betas)))
    short = respace(visited, betas)
    for i in range(len(visited), 0, -1):
        t = visited[i - 1]
        guess = predict(x, t)
        if kind == "v":
            guess = x0_of_v(x, guess, t, betas)
        x = noise_mean(x, guess, i, short) if kind == "eps" else posterior(x, guess, i, short)[0]
        if inserted is not None and i > 1:
            x = x + np.sqrt(paper_variance(i, short)) * inserted(t)
    return x


def noise_objective(x0: Array, noise: Array, t: int, predict: Predictor, betas: Betas) -> float:
    """Eq. 4 without its gradient: the squared distance, as a mean over the numbers."""
    guess = predict(diffuse(x0, noise, t, betas), t)
    total = 0.0
    for a, b in zip(noise.ravel(), guess.ravel(), strict=True):
        total += float((a - b) ** 2)
    return total / noise.size


# --- losses on the prior ---------------------------------------------------------------------------------------------


def prior_l1(estimate: Array, target: Array) -> float:
    """Eq. 13, averaged over the batch."""
    return float(
        np.mean([sum(abs(a - b) for a, b in zip(e, z, strict=True)) / len(z) for e, z in _rows(estimate, target)])
    )


def prior_l2(estimate: Array, target: Array) -> float:
    """Eq. 14, averaged over the batch."""
    return float(
        np.mean([sum((a - b) ** 2 for a, b in zip(e, z, strict=True)) / len(z) for e, z in _rows(estimate, target)])
    )


def prior_kl(estimate: Array, target: Array) -> float:
    """Eq. 15: a sum over the 4C' entries of Z_norm log(Z_norm / Z^_norm), averaged over the batch."""
    return float(
        np.mean(
            [
                sum(p * np.log(p / q) for p, q in zip(_softmax(z), _softmax(e), strict=True))
                for e, z in _rows(estimate, target)
            ]
        )
    )


def _rows(estimate: Array, target: Array) -> list[tuple[Array, Array]]:
    return list(zip(estimate, target, strict=True))


def _softmax(v: Array) -> Array:
    e = np.exp(v - v.max())
    return np.asarray(e / e.sum())


# --- networks: one image (C, H, W) at a time; weights by their names in the checkpoint ------------------------------


def below(weights: Weights, prefix: str) -> Weights:
    """The weights of one sub-module."""
    return {name[len(prefix) + 1 :]: value for name, value in weights.items() if name.startswith(prefix + ".")}


def pixel_unshuffle(image: Array, r: int) -> Array:
    """Eqs. 5 and 12: (C, rH, rW) -> (C r r, H, W)."""
    C, H, W = image.shape
    out = np.zeros((C * r * r, H // r, W // r))
    for c in range(C):
        for y in range(H):
            for x in range(W):
                out[c * r * r + (y % r) * r + x % r, y // r, x // r] = image[c, y, x]
    return out


def pixel_shuffle(image: Array, r: int) -> Array:
    """The inverse: (C r r, H, W) -> (C, rH, rW)."""
    channels, H, W = image.shape
    out = np.zeros((channels // (r * r), H * r, W * r))
    for c in range(out.shape[0]):
        for y in range(H * r):
            for x in range(W * r):
                out[c, y, x] = image[c * r * r + (y % r) * r + x % r, y // r, x // r]
    return out


def layer_norm(F: Array, w: Weights) -> Array:
    """Norm of Eqs. 6-9: over the channels of each pixel."""
    out = np.zeros_like(F)
    for y in range(F.shape[1]):
        for x in range(F.shape[2]):
            v = F[:, y, x]
            mean = sum(v) / len(v)
            variance = sum((v - mean) ** 2) / len(v)
            out[:, y, x] = (v - mean) / np.sqrt(variance + 1e-5) * w["weight"] + w["bias"]
    return out


def pointwise(F: Array, w: Weights) -> Array:
    """W_c: weight (O, I, 1, 1)."""
    weight = w["weight"]
    out = np.zeros((weight.shape[0], *F.shape[1:]))
    for o in range(weight.shape[0]):
        out[o] = w["bias"][o]
        for i in range(weight.shape[1]):
            out[o] += weight[o, i, 0, 0] * F[i]
    return out


def window(plane: Array, kernel: Array) -> Array:
    """A 3x3 window moved over one plane, zeros outside."""
    H, W = plane.shape
    out = np.zeros((H, W))
    for y in range(H):
        for x in range(W):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < H and 0 <= x + dx < W:
                        out[y, x] += kernel[dy + 1, dx + 1] * plane[y + dy, x + dx]
    return out


def depthwise(F: Array, w: Weights) -> Array:
    """W_d: weight (C, 1, 3, 3)."""
    return np.stack([window(F[c], w["weight"][c, 0]) + w["bias"][c] for c in range(F.shape[0])])


def convolution(F: Array, w: Weights) -> Array:
    """A dense 3x3 convolution: weight (O, I, 3, 3)."""
    planes = []
    for kernels, bias in zip(w["weight"], w["bias"], strict=True):
        planes.append(sum((window(F[i], kernels[i]) for i in range(F.shape[0])), np.zeros(F.shape[1:])) + bias)
    return np.stack(planes)


def linear(v: Array, w: Weights) -> Array:
    """W_l: weight (O, I), with or without a bias."""
    out = np.array([sum(row * v) for row in w["weight"]])
    return out + w["bias"] if "bias" in w else out


def leaky(v: Array) -> Array:
    """LeakyReLU with the slope 0.1."""
    return np.where(v >= 0, v, 0.1 * v)


def simple_gate(F: Array) -> Array:
    """Eq. 6."""
    half = F.shape[0] // 2
    return F[:half] * F[half:]


def dynamic_layer(F: Array, Z: Array, w: Weights, attention: bool) -> Array:
    """DA (Eqs. 6-8) with `attention`, DFFN (Eq. 9) without."""
    gated = simple_gate(depthwise(pointwise(layer_norm(F, below(w, "norm")), below(w, "W_c")), below(w, "W_d")))
    if attention:
        gated = np.stack([plane * (plane.sum() / plane.size) for plane in gated])  # Eq. 7
    projection = below(w, "project")
    projected = depthwise(gated, projection) if projection["weight"].shape[-1] == 3 else pointwise(gated, projection)
    shift = linear(Z, below(w, "W_l"))
    return np.stack([projected[c] + shift[c] + F[c] for c in range(F.shape[0])])


def stack(F: Array, Z: Array, w: Weights) -> Array:
    """Blocks of DA, then DFFN."""
    for i in range(len({name.split(".")[0] for name in w})):
        F = dynamic_layer(F, Z, below(w, f"{i}.attention"), attention=True)
        F = dynamic_layer(F, Z, below(w, f"{i}.feed_forward"), attention=False)
    return F


def di2iformer(image: Array, Z: Array, w: Weights, scale: int) -> Array:
    """The U-shape of Fig. 2 on sides divisible by 8, without the image that is added at the end."""
    x = convolution(image, below(w, "embed"))
    skips = []
    for i in range(3):
        x = stack(x, Z, below(w, f"encoder.{i}"))
        skips.append(x)
        x = pixel_unshuffle(convolution(x, below(w, f"down.{i}.0")), 2)
    x = stack(x, Z, below(w, "bottom"))
    for i in range(3):
        x = pixel_shuffle(convolution(x, below(w, f"up.{i}.0")), 2)
        x = pointwise(np.concatenate([x, skips[2 - i]]), below(w, f"join.{i}"))
        x = stack(x, Z, below(w, f"decoder.{i}"))
    x = stack(x, Z, below(w, "refine"))
    return pixel_shuffle(convolution(x, below(w, "tail.0")), scale)


def cpen(unshuffled: Array, w: Weights, blocks: int) -> Array:
    """CPEN of Fig. 2 on its unshuffled input: convolutions, residual blocks, global average pool, linear layers."""
    x = convolution(unshuffled, below(w, "features.0"))
    for i in range(1, blocks + 1):
        inner = leaky(convolution(x, below(w, f"features.{i}.body.0")))
        x = x + convolution(inner, below(w, f"features.{i}.body.2"))
    for i in range(3):
        x = leaky(convolution(x, below(w, f"features.{blocks + 1 + 2 * i}")))
    pooled = np.array([plane.sum() / plane.size for plane in x])
    return linear(leaky(linear(pooled, below(w, "head.0"))), below(w, "head.2"))


def denoiser(Z: Array, time: float, D: Array, w: Weights, hidden: int) -> Array:
    """The denoising network on Concat(Z_t, t, D): `hidden` layers after the first, the last one linear."""
    x = np.concatenate([Z, [time], D])
    for i in range(hidden + 1):
        x = leaky(linear(x, below(w, f"layers.{2 * i}")))
    return linear(x, below(w, f"layers.{2 * (hidden + 1)}"))
