"""The authors' DiffIR as files: the layout of their state dicts, and weights by formula."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffi2i.diffusion.schedule import Schedule, sqrt_linear

Shapes = dict[str, tuple[int, ...]]


def uniform(count: int, stream: int) -> np.ndarray:
    """`count` numbers in [-1, 1), by splitmix64 as a counter generator: the same on every machine."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 32)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return 2 * ((z >> np.uint64(11)) / 2.0**53) - 1


def filled(shape: tuple[int, ...], stream: int) -> Tensor:
    return torch.from_numpy(uniform(int(np.prod(shape)), stream).reshape(shape))


def former(args: dict[str, Any]) -> Shapes:
    """Names and shapes of the DIRformer, `G.`."""
    dim, blocks, heads = args["dim"], args["num_blocks"], args["heads"]
    biased, super_resolution = args["LayerNorm_type"] == "WithBias", "scale" in args
    unshuffled = args["inp_channels"] * (4 // args["scale"]) ** 2 if super_resolution else args["inp_channels"]
    shapes: Shapes = {"patch_embed.proj.weight": (dim, unshuffled, 3, 3)}

    def stack(name: str, count: int, width: int, head: int) -> None:
        hidden = int(width * args["ffn_expansion_factor"])
        for i in range(count):
            one = {
                "attn.temperature": (head, 1, 1),
                "attn.kernel.0.weight": (2 * width, 256),
                "attn.qkv.weight": (3 * width, width, 1, 1),
                "attn.qkv_dwconv.weight": (3 * width, 1, 3, 3),
                "attn.project_out.weight": (width, width, 1, 1),
                "ffn.kernel.0.weight": (2 * width, 256),
                "ffn.project_in.weight": (2 * hidden, width, 1, 1),
                "ffn.dwconv.weight": (2 * hidden, 1, 3, 3),
                "ffn.project_out.weight": (width, hidden, 1, 1),
            }
            for norm in ("norm1", "norm2"):
                one |= {f"{norm}.body.{kind}": (width,) for kind in (("weight", "bias") if biased else ("weight",))}
            shapes.update({f"{name}.{i}.{key}": shape for key, shape in one.items()})

    for i in range(3):
        stack(f"encoder_level{i + 1}", blocks[i], dim * 2**i, heads[i])
        shapes[f"down{i + 1}_{i + 2}.body.0.weight"] = (dim * 2**i // 2, dim * 2**i, 3, 3)
        shapes[f"up{i + 2}_{i + 1}.body.0.weight"] = (dim * 2 ** (i + 2), dim * 2 ** (i + 1), 3, 3)
    stack("latent", blocks[3], 8 * dim, heads[3])
    stack("decoder_level3", blocks[2], 4 * dim, heads[2])
    stack("decoder_level2", blocks[1], 2 * dim, heads[1])
    stack("decoder_level1", blocks[0], 2 * dim, heads[0])
    stack("refinement", args["num_refinement_blocks"], 2 * dim, heads[0])
    shapes["reduce_chan_level3.weight"] = (4 * dim, 8 * dim, 1, 1)
    shapes["reduce_chan_level2.weight"] = (2 * dim, 4 * dim, 1, 1)
    if super_resolution:
        for name, out, inner in (
            ("tail.0.0", 8 * dim, 2 * dim),
            ("tail.0.2", 8 * dim, 2 * dim),
            ("tail.1", 3, 2 * dim),
        ):
            shapes |= {f"{name}.weight": (out, inner, 3, 3), f"{name}.bias": (out,)}
    else:
        shapes["output.weight"] = (3, 2 * dim, 3, 3)
    return {f"G.{name}": shape for name, shape in shapes.items()}


def cpen(args: dict[str, Any], prefix: str, gt: bool) -> Shapes:
    side = 4 // args.get("scale", 1)
    channels = args["inp_channels"] * side**2 + (48 if gt else 0)
    blocks = args["n_encoder_res"]
    convs = {"0": (64, channels), str(blocks + 2): (128, 64), str(blocks + 4): (128, 128), str(blocks + 6): (256, 128)}
    convs |= {f"{2 + i}.body.{j}": (64, 64) for i in range(blocks) for j in (0, 2)}
    shapes: Shapes = {}
    for name, (out, inner) in convs.items():
        shapes |= {f"{prefix}E.{name}.weight": (out, inner, 3, 3), f"{prefix}E.{name}.bias": (out,)}
    for name in ("mlp.0", "mlp.2"):
        shapes |= {f"{prefix}{name}.weight": (256, 256), f"{prefix}{name}.bias": (256,)}
    return shapes


def layout(args: dict[str, Any], second: bool) -> Shapes:
    """Of stage 2, else 1, without what stands twice."""
    if not second:
        return former(args) | cpen(args, "E.", gt=True)
    denoise: Shapes = {"denoise.resmlp.0.weight": (256, 513), "denoise.resmlp.0.bias": (256,)}
    denoise |= {"denoise.resmlp.2.resmlp.0.weight": (256, 256), "denoise.resmlp.2.resmlp.0.bias": (256,)}
    return former(args) | cpen(args, "condition.", gt=False) | denoise


def weights(args: dict[str, Any], second: bool) -> dict[str, Tensor]:
    """A whole state dict: weights by formula and, of stage 2, what stands twice and the schedule's buffers."""
    state = {}
    for stream, (name, shape) in enumerate(sorted(layout(args, second).items()), start=1):
        value = filled(shape, stream)
        if name.endswith("weight") and len(shape) >= 2:
            value = value * (3 / (value.numel() / shape[0])) ** 0.5
        elif name.endswith(("temperature", "body.weight")):
            value = 1 + 0.1 * value
        else:
            value = 0.1 * value
        state[name] = value
    if second:
        twins = {"condition.": "diffusion.condition.", "denoise.": "diffusion.model."}
        for name in list(state):
            for own, twin in twins.items():
                if name.startswith(own):
                    state[twin + name[len(own) :]] = state[name].clone()
        state |= {f"diffusion.{name}": value for name, value in buffers().items()}
    return state


def buffers() -> dict[str, Tensor]:
    """The constants of four steps, linear in sqrt(beta), in float32."""
    betas = torch.tensor(sqrt_linear(4, 0.1, 0.99), dtype=torch.float64)
    bar = torch.tensor(Schedule(betas.tolist(), "x0").alpha_bar[1:], dtype=torch.float64)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    variance = betas * (1 - before) / (1 - bar)
    found = {
        "betas": betas,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - bar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - bar).log(),
        "sqrt_recip_alphas_cumprod": bar.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / bar - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - bar),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - bar),
    }
    return {name: value.float() for name, value in found.items()}
