"""FID, KID and FD-Lite0: how far the set of restored images is from the set of targets, in a network's features.

* `fid`: Heusel et al. 2017 (arXiv:1706.08500), the Fréchet distance between Gaussians fitted to the 2048 pooled
  features of TensorFlow's Inception of 2015. Its input is prepared as in the reference: 8-bit images, resized to
  299x299 bilinearly with TensorFlow 1's sampling (no antialiasing, no half-pixel shift), then (x - 128) / 128.
  Resizing by anything else gives other numbers (Parmar et al. 2022, arXiv:2104.11222).
* `kid`: Binkowski et al. 2018 (arXiv:1801.01401), the unbiased squared MMD of the same features under the kernel
  (x.y / 2048 + 1)^3, over all pairs of images and not multiplied by 1000. The reference averages it over 100 random
  subsets of 1000 images: an estimate of the same number with the noise of the choice added, and undefined below
  1000 images. Over all pairs there is no choice to seed; the cost, quadratic, stays a few percent of extraction's.
* `fd_lite0`: the Fréchet distance as for FID, on the 1280 pooled features of the ImageNet EfficientNet-Lite0, on
  images resized to 224x224 bilinearly with antialiasing. It is not FID and not comparable to FID's numbers; it is
  there because its network comes from the Python package index.

The Inception is torch-fidelity's, the port that agrees with TensorFlow's graph. torchmetrics' metrics are not used.
Its `FrechetInceptionDistance` antialiases unless told not to, rounds its result to float32, fails on a rank without
images, and takes square roots of the rounding errors of a singular covariance (fewer images than features, the usual
case here); the list states of its `KernelInceptionDistance` go wrong or hang under uneven shards. Here each rank
keeps the features themselves, 16 KiB of Inception's for an image and its target, and `compute` gathers them whole in
the order of image names: exact for any shards, and enough for all three scores.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from diffi2i.data.resize import to_uint8
from diffi2i.errors import Note, WeightsUnavailableError
from diffi2i.files import whole
from diffi2i.metrics.spec import METRICS
from diffi2i.run.hardware import of_all_ranks
from diffi2i.weights import efficientnet_lite0, fid_inception

# Network and preparation of its input: saved features are read only where both are still the same.
_IDENTITIES = {
    "inception": "inception-2015-12-05-6726825d, TF1 bilinear 299",
    "lite0": "efficientnet-lite0-57934424, antialiased bilinear 224",
}
_LITE0_SIDE = 224
# Rows of the kernel matrix held at once: 30,000 images make 240 MB.
_KERNEL_ROWS = 1024


class DistributionScores:
    """Distances between all restored images and all targets: those of `spec.METRICS` that are asked for.

    Lower is better; `kid` may be slightly negative. A network sees one image at a time, in float32 whatever the
    model's precision: no score depends on batching. Statistics are in float64.

    Not an `nn.Module`, for the reasons given at `ImageScores`. Under DDP `compute`, `counts` and `reasons` are
    collective: every rank calls them, also one without images.
    """

    def __init__(self, keys: Sequence[str], statistics: Path | None = None) -> None:
        """Fetches the networks' weights; the scores of one that cannot be had, on any rank, are None.

        Args:
            keys: scores of a set of images.
            statistics: file for the targets' features. Those it has, by image name, are not extracted again; rank 0
                adds the others in `compute`. It must stand for one set of targets after one preparation (manifest,
                border), where names are unique. A damaged file, or one of another network, counts as absent and is
                written anew.
        """
        self._metrics = {key: METRICS[key] for key in keys}
        self._device = torch.device("cpu")
        self._networks: dict[str, nn.Module] = {}
        self._missing: dict[str, str] = {}
        for network in sorted({metric.weights for metric in self._metrics.values()}):
            try:
                self._networks[network] = _build(network)
            except WeightsUnavailableError as error:
                self._missing[network] = str(error)
        self._statistics = statistics
        self._known: dict[str, dict[str, Tensor]] = {} if statistics is None else _read(statistics)
        self.reset()

    def to(self, device: torch.device | str) -> "DistributionScores":
        """Move the networks and `compute` to `device`, CPU or CUDA (float64 is needed); `update` moves images."""
        self._device = torch.device(device)
        for module in self._networks.values():
            module.to(self._device)
        return self

    @torch.no_grad()
    def update(self, pred: Tensor, target: Tensor, *, names: Sequence[str]) -> None:
        """Extract the features of a batch.

        Args:
            pred, target: (B, 3, H, W) float RGB in [0, 1], at multiples of 1/255; checked by the caller.
            names: B names.
        """
        for i, name in enumerate(names):
            for network, module in self._networks.items():
                preds, targets = self._features[network]
                preds.append(self._extract(module, pred[i]))
                known = self._known.get(network, {}).get(name)
                targets.append(self._extract(module, target[i]) if known is None else known)
            self._names.append(name)

    @torch.no_grad()
    def compute(self) -> dict[str, float | None]:
        """The scores over the images of all ranks; None where `reasons` says why."""
        scores: dict[str, float | None] = dict.fromkeys(self._metrics)
        count, missing = self._agree()
        if count < 2:
            return scores
        news = False
        for network in sorted({metric.weights for metric in self._metrics.values()} - missing.keys()):
            names, pred, target = self._gathered(network)
            # Names that repeat cannot tell targets apart.
            if self._statistics is not None and len(set(names)) == len(names):
                known = self._known.setdefault(network, {})
                news = news or not known.keys() >= set(names)
                known.update(zip(names, target, strict=True))
            pred, target = (features.to(self._device, torch.float64) for features in (pred, target))
            for key, metric in self._metrics.items():
                if metric.weights == network:
                    scores[key] = float(metric.make()(pred, target))
        if news and self._statistics is not None and not (_is_distributed() and dist.get_rank()):
            _write(self._statistics, self._known)
        return scores

    def counts(self) -> dict[str, int]:
        """Number of images, over all ranks, behind each score."""
        count, missing = self._agree()
        return {key: 0 if metric.weights in missing else count for key, metric in self._metrics.items()}

    def reasons(self) -> dict[str, str]:
        """Why a key of `compute` is None, one line for each such key."""
        count, missing = self._agree()
        few = {key: f"{metric.heading} needs at least 2 images" for key, metric in self._metrics.items() if count < 2}
        lacking = {key: metric.weights for key, metric in self._metrics.items() if metric.weights in missing}
        return few | {key: missing[network] for key, network in lacking.items()}

    def reset(self) -> None:
        """Forget all images; the targets' features in, or for, the statistics file stay."""
        self._names: list[str] = []
        self._features: dict[str, tuple[list[Tensor], list[Tensor]]] = {key: ([], []) for key in self._networks}

    def _extract(self, module: nn.Module, image: Tensor) -> Tensor:
        """(3, H, W) -> (D,) float32 on the CPU."""
        # A GPU may take TF32 for float32, which is a thousand times coarser.
        exact = {"enabled": torch.backends.cudnn.enabled, "deterministic": True, "allow_tf32": False}
        with torch.autocast(self._device.type, enabled=False), torch.backends.cudnn.flags(**exact):
            features: Tensor = module(to_uint8(image[None]).to(self._device))
        return features[0].cpu()

    def _agree(self) -> tuple[int, dict[str, str]]:
        """Number of images over all ranks, and the networks that any of them lacks."""
        ranks = of_all_ranks((len(self._names), self._missing))
        return sum(count for count, _ in ranks), {key: why for _, lacks in ranks for key, why in lacks.items()}

    def _gathered(self, network: str) -> tuple[list[str], Tensor, Tensor]:
        """Names, in order, with features of predictions and targets, (n, D) float32, of all ranks."""
        own = [torch.stack(features) for features in self._features[network] if features]
        # A rank without images does not know D: it sends no tensor.
        ranks = [(names, both) for names, both in of_all_ranks((self._names, own)) if names]
        names = [name for some, _ in ranks for name in some]
        order = sorted(range(len(names)), key=names.__getitem__)
        pred, target = (torch.cat([both[i] for _, both in ranks])[order] for i in range(2))
        return [names[i] for i in order], pred, target


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets: |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2).

    S is the unbiased covariance. With S = R'R for each set, the trace of the root is the sum of the singular values
    of R_a R_b'. That stays exact where S is singular: eigenvalues of S_a S_b have rounding errors of 1e-16, of which
    the root makes 1e-8 for each of thousands of dimensions.

    Args:
        a: (n, D) float64, n at least 2.
        b: (m, D) float64, m at least 2.
    """
    root_a, root_b = (torch.linalg.qr((x - x.mean(0)) / math.sqrt(len(x) - 1), mode="r").R for x in (a, b))
    overlap = torch.linalg.svdvals(root_a @ root_b.mT).sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * overlap
    # Equal sets may come out at minus a rounding error.
    return max(0.0, float(distance))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD between two sets under the kernel (x.y / D + 1)^3; negative by chance for close sets.

    Args:
        a: (n, D) float64, n at least 2.
        b: (m, D) float64, m at least 2.
    """
    within = 0.0
    for x in (a, b):
        itself = (x.square().sum(1) / x.shape[1] + 1).pow(3).sum()
        within += (_kernel_sum(x, x) - float(itself)) / (len(x) * (len(x) - 1))
    return within - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    starts = range(0, len(a), _KERNEL_ROWS)
    return sum(float((a[i : i + _KERNEL_ROWS] @ b.mT / a.shape[1] + 1).pow(3).sum()) for i in starts)


class _Inception(nn.Module):
    """8-bit images (B, 3, H, W) -> (B, 2048), the pooled features of FID's Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(fid_inception()))

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.network(image)[0]
        return features


class _Lite0(nn.Module):
    """8-bit images (B, 3, H, W) -> (B, 1280), the features before the classifier."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        weights = efficientnet_lite0()
        self.network.load_state_dict({key: weights[key] for key in self.network.state_dict()})

    def forward(self, image: Tensor) -> Tensor:
        side = (_LITE0_SIDE, _LITE0_SIDE)
        image = F.interpolate(image.float(), side, mode="bilinear", align_corners=False, antialias=True)
        features: Tensor = self.network((image - 127) / 128)
        return features


def _build(network: str) -> nn.Module:
    """A module from uint8 (B, 3, H, W) to float32 (B, D), in eval mode; raises `WeightsUnavailableError`."""
    # Building draws random weights: training's random stream must not depend on what is scored.
    with torch.random.fork_rng(devices=[]):
        if network == "inception":
            return _Inception().eval()
        return _Lite0().eval()


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """The features of a statistics file, by network and image name; none where it is absent or damaged."""
    known: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()["networks"])
            for network in (network for network in _IDENTITIES if network in said):
                features, entry = file.get_tensor(network), said[network]
                if entry["sha256"] != _sha256(features):
                    raise ValueError("wrong sha256")
                if entry["identity"] == _IDENTITIES[network]:
                    known[network] = dict(zip(entry["names"], features, strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"{path} cannot be read ({error}); the targets' features are extracted again", Note, stacklevel=3)
        return {}
    return known


def _write(path: Path, known: dict[str, dict[str, Tensor]]) -> None:
    tensors: dict[str, Tensor] = {}
    said = {}
    for network, features in known.items():
        tensors[network] = torch.stack(list(features.values()))
        digest = _sha256(tensors[network])
        said[network] = {"identity": _IDENTITIES[network], "sha256": digest, "names": list(features)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:  # jobs may share the file: the last rename wins
            save_file(tensors, temporary, {"networks": json.dumps(said)})
    except (OSError, SafetensorError) as error:
        # The scores are worth more than the file.
        warnings.warn(f"{path} cannot be written ({error}); the targets' features are not kept", Note, stacklevel=3)


def _sha256(features: Tensor) -> str:
    return hashlib.sha256(features.numpy().tobytes()).hexdigest()
