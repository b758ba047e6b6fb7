"""Any hierarchical timm network as an encoder guided by Z, as the paper guides Swin (Secs. 4.1 and 5.7).

Symbols: Z (B, 4C') the IPR; W_l linear, one for each stage.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from diffi2i import weights
from diffi2i.errors import WeightsUnavailableError

Pretrained = Literal["none", "index", "hub"]
STRIDES = [4, 8, 16, 32]
INDEX_NAME = "tf_efficientnet_lite0"
# The weights on the index were trained on (255 x - 127) / 128.
INDEX_MEAN, INDEX_STD = (127 / 255,) * 3, (128 / 255,) * 3


class Normalise(nn.Module):
    """(x - mean) / std for each channel.

    The constants are in the state dict: a network that is built without pretrained weights and then loads a
    checkpoint normalises as the checkpoint's did.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class TimmEncoder(nn.Module):
    """Feature maps at strides 4, 8, 16 and 32, with W_l Z added to each stage's output.

    The sum is also what the next stage takes in, so Z guides the whole encoder from stride 4 on.

    Args:
        name: a timm model that has such stages, like "tf_efficientnet_lite0" or "swin_tiny_patch4_window7_224".
        prior_dim: 4C'; None for an encoder without a prior.
        pretrained: "none" for random weights; "index" for those of EfficientNet-Lite0 that the Python package index
            has; "hub" for timm's own from the Hugging Face hub.
        drop_path: timm's stochastic depth rate.

    Raises:
        ValueError: `name` is unknown or lacks a stage, or `pretrained` does not go with it; no such `drop_path`.
        WeightsUnavailableError: the weights cannot be had.

    `channels` are the widths of the returned maps; the sides of the image must be multiples of `multiple`.
    """

    def __init__(
        self, name: str, prior_dim: int | None, pretrained: Pretrained = "none", drop_path: float = 0.0
    ) -> None:
        super().__init__()
        check_drop_path(drop_path)
        if pretrained not in get_args(Pretrained):
            raise ValueError(f"pretrained is {pretrained!r}; write one of {', '.join(get_args(Pretrained))}")
        cfg = published_cfg(name)
        if pretrained == "index" and name != INDEX_NAME:
            raise ValueError(f"the package index has weights of {INDEX_NAME} alone; for {name} write pretrained=hub")
        self.body = build_body(name, cfg, pretrained, drop_path)
        info = self.body.feature_info
        if info.reduction()[-4:] != STRIDES:
            raise ValueError(f"{name} has feature maps at strides {info.reduction()}, but 4, 8, 16 and 32 are needed")
        # Where timm unfolds a sequence, it calls its parts "layers_0", not "layers.0".
        parts = dict(self.body.named_modules())
        self.stages = [path if path in parts else path.replace(".", "_") for path in info.module_name()[-4:]]
        self.channels_at_end = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.channels: list[int] = info.channels()[-4:]
        self.multiple = STRIDES[-1]

        on_index = pretrained == "index"
        self.normalise = Normalise(INDEX_MEAN if on_index else cfg.mean, INDEX_STD if on_index else cfg.std)
        self.W_l = nn.ModuleList()
        if prior_dim is not None:
            self.W_l.extend(nn.Linear(prior_dim, channels, bias=False) for channels in self.channels)
        for linear in self.W_l:
            # Small, so that pretrained stages still see what they know; not zero, so that Z has a gradient at once.
            nn.init.normal_(linear.weight, std=0.02)  # type: ignore[arg-type]

    def forward(self, image: Tensor, z: Tensor | None) -> list[Tensor]:
        """`image` (B, 3, H, W) RGB in [0, 1], `z` (B, 4C') -> [(B, channels[i], H / 2^(i+2), W / 2^(i+2)), ...]."""
        # timm runs its stages in one go; a hook is the one place between two of them that all its networks have. The
        # hooks live for this call alone, so copies of the module (such as the EMA's) carry none that points here.
        hooks = [
            self.body.get_submodule(stage).register_forward_hook(self.adder(W_l(z)))
            for stage, W_l in zip(self.stages, self.W_l, strict=False)  # no W_l without a prior
        ]
        try:
            maps = self.body(self.normalise(image))[-4:]
        finally:
            for hook in hooks:
                hook.remove()
        return [x.permute(0, 3, 1, 2) if self.channels_at_end else x for x in maps]

    def adder(self, shift: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        """A hook that adds `shift` (B, channels) to the module's output at every pixel."""
        shift = shift[:, None, None, :] if self.channels_at_end else shift[:, :, None, None]
        return lambda _module, _inputs, output: output + shift


def check_drop_path(rate: float) -> None:
    """Raises `ValueError` for what is no probability of leaving out a block."""
    if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f"drop_path={rate} is a probability in [0, 1): write 0.1")


def published_cfg(name: str) -> Any:
    """What timm knows about a model's weights: input statistics, whether the size is fixed, where they are."""
    import timm  # takes a second, which the tasks without such an encoder need not wait

    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"timm has no model {name!r} ({error}); list them with timm.list_models()") from error
    if cfg is None:
        raise ValueError(f"timm has no model {name!r}; list them with timm.list_models()")
    return cfg


def build_body(name: str, cfg: Any, pretrained: Pretrained, drop_path: float) -> Any:
    """timm's network without its classifier, which returns a list of feature maps."""
    import timm

    options: dict[str, Any] = {"features_only": True, "drop_path_rate": drop_path}
    if cfg.fixed_input_size:
        options["strict_img_size"] = False  # Swin then makes its window masks for the size at hand

    try:
        body = timm.create_model(name, pretrained=pretrained == "hub", **options)
    except TypeError as error:
        raise ValueError(f"{name} cannot be an encoder here: {error}") from error
    except Exception as error:  # the hub's client raises errors of several libraries
        if pretrained != "hub":
            raise
        raise WeightsUnavailableError(hub_advice(name, cfg.hf_hub_id)) from error
    if pretrained == "index":
        state = weights.efficientnet_lite0()
        body.load_state_dict({key: state[key] for key in body.state_dict()})
    return body


def hub_advice(name: str, repository: str | None) -> str:
    if repository is None:
        return f"timm has no weights for {name} on the Hugging Face hub: write pretrained=none for the encoder"
    return (
        f"the weights of {name} cannot be had from https://huggingface.co/{repository}: where there is a network run "
        f"`hf download {repository}`, copy the folder models--{repository.replace('/', '--')} to the same place under "
        "~/.cache/huggingface/hub (or $HF_HOME/hub) here, or write pretrained=none for the encoder"
    )
