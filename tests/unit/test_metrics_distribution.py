"""FID, KID and FD-Lite0 against the reference packages, plain loops, and themselves on several ranks."""

import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.torch
import scipy.linalg
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from diffi2i import weights
from diffi2i.errors import WeightsUnavailableError
from diffi2i.metrics import distribution
from diffi2i.metrics.distribution import DistributionScores, frechet_distance, kernel_distance
from tests.processes import joined, together

KEYS = ("fid", "kid", "fd_lite0")


def pictures(count: int, *, seed: int = 0, step: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Smooth 8-bit pictures of several sizes, each with a noisy copy."""
    rng = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(count):
        small = torch.rand(1, 3, 4, 5, generator=rng)
        target = F.interpolate(small, (40 + step * i, 48 - step * i), mode="bicubic").clamp(0, 1)
        pred = (0.8 * target + 0.1 * torch.randn(target.shape, generator=rng)).clamp(0, 1)
        pairs.append(((pred * 255).round() / 255, (target * 255).round() / 255))
    return pairs


def fill(scores: DistributionScores, pairs: list[tuple[Tensor, Tensor]], first: int = 0) -> DistributionScores:
    for i, (pred, target) in enumerate(pairs, first):
        scores.update(pred, target, names=[f"image{i:02}"])
    return scores


def bytes_of(images: list[Tensor]) -> list[Tensor]:
    return [(image[0] * 255).round().to(torch.uint8) for image in images]


def in_their_span(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets on axes that hold them: the distance is the same, and the root is of a matrix of 24, not of 2048."""
    axes = np.linalg.qr(np.concatenate([a, b]).T.astype(np.float64))[0]
    return a @ axes, b @ axes


def frechet_by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the product is singular
        root = np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root))


class Tiny(nn.Module):
    """Eight features of any image, and a count of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
        self.seen = 0

    def forward(self, image: Tensor) -> Tensor:
        self.seen += len(image)
        return torch.tanh(F.adaptive_avg_pool2d(image.float() / 255, 2).flatten(1) @ self.mix.T)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    network = Tiny()
    monkeypatch.setattr(distribution, "_build", lambda _: network)
    return network


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network in the place of the pretrained one, whose features keep their scale through all layers."""
    extractors = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    file = tmp_path_factory.mktemp("inception") / "random.pth"
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(nn.Module, "load_state_dict", lambda *_: None)
        patch.setattr(extractors, "load_state_dict_from_url", lambda *_, **__: {})
        network = extractors.FeatureExtractorInceptionV3("random", ["2048"])
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=torch.Generator().manual_seed(module.in_channels))
    torch.save(network.state_dict(), file)
    return file


PAIRS = pictures(12, step=1)


@pytest.fixture(scope="module")
def ours(inception_file: Path) -> dict[str, float | None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "fid_inception", lambda: inception_file)
        return fill(DistributionScores(["fid", "kid"]), PAIRS).compute()


class ByteImages(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: list[Tensor]) -> None:
        self.images = bytes_of(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


@pytest.mark.slow
def test_fid_and_kid_are_torch_fidelitys(ours: dict[str, float | None], inception_file: Path) -> None:
    torch_fidelity = pytest.importorskip("torch_fidelity")
    expected = torch_fidelity.calculate_metrics(
        input1=ByteImages([pred for pred, _ in PAIRS]),
        input2=ByteImages([target for _, target in PAIRS]),
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=len(PAIRS),
        feature_extractor_weights_path=str(inception_file),
        batch_size=1,
        save_cpu_ram=True,
        cuda=False,
        cache=False,
        verbose=False,
    )
    assert ours["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert ours["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fid_is_pytorch_fids(
    ours: dict[str, float | None], inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the resizing and scaling of the TensorFlow graph, which pytorch-fid replaces by its own."""
    reference = pytest.importorskip("pytorch_fid.inception")
    distance = pytest.importorskip("pytorch_fid.fid_score").calculate_frechet_distance
    compat = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    monkeypatch.setattr(reference, "load_state_dict_from_url", lambda *_, **__: torch.load(inception_file))
    network = reference.InceptionV3(resize_input=False, normalize_input=False).eval()

    @torch.no_grad()
    def features(image: Tensor) -> np.ndarray:
        resized = compat.interpolate_bilinear_2d_like_tensorflow1x(image * 255, (299, 299), align_corners=False)
        found: np.ndarray = network((resized - 128) / 128)[0].flatten().numpy()
        return found

    pred, target = in_their_span(*(np.stack([features(pair[i]) for pair in PAIRS]) for i in range(2)))
    expected = distance(pred.mean(0), np.cov(pred, rowvar=False), target.mean(0), np.cov(target, rowvar=False))
    assert ours["fid"] == pytest.approx(expected, rel=1e-5)


def test_fd_lite0_is_the_distance_of_timms_features() -> None:
    timm = pytest.importorskip("timm")
    try:
        state = weights.efficientnet_lite0()
    except WeightsUnavailableError as error:
        pytest.skip(str(error))
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(state)
    network.eval()

    @torch.no_grad()
    def features(image: Tensor) -> np.ndarray:
        small = F.interpolate(255 * image, (224, 224), mode="bilinear", antialias=True)
        found: np.ndarray = network.forward_features((small - 127) / 128).mean((2, 3))[0].numpy()
        return found

    before = torch.get_rng_state()
    scores = fill(DistributionScores(["fd_lite0"]), PAIRS)
    assert torch.equal(torch.get_rng_state(), before)
    pred, target = in_their_span(*(np.stack([features(pair[i]) for pair in PAIRS]) for i in range(2)))
    assert scores.compute()["fd_lite0"] == pytest.approx(frechet_by_scipy(pred, target), rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(40, 30), (9, 7), (2, 2)])
def test_frechet_distance_is_scipys(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(20, 20))
    a, b = rng.normal(size=(n, 20)) @ mix, 1.5 * rng.normal(size=(m, 20)) @ mix + 0.3
    found = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(frechet_by_scipy(*in_their_span(a, b)), rel=1e-6)


def test_equal_sets_are_at_no_distance() -> None:
    a = torch.rand(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert 0 <= frechet_distance(a, a.flip(0)) < 1e-12
    assert frechet_distance(a, a + 0.5) == pytest.approx(20 * 0.25)


def test_kernel_distance_is_that_of_a_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "_KERNEL_ROWS", 3)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(8, 5)), rng.normal(size=(7, 5)) + 0.2

    def mean(one: np.ndarray, other: np.ndarray, *, same: bool) -> float:
        pairs = [(i, j) for i in range(len(one)) for j in range(len(other)) if not (same and i == j)]
        return float(np.mean([(one[i] @ other[j] / 5 + 1) ** 3 for i, j in pairs]))

    expected = mean(a, a, same=True) + mean(b, b, same=True) - 2 * mean(a, b, same=False)
    assert kernel_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-9)


def test_scores_do_not_depend_on_order_or_batching(tiny: Tiny) -> None:
    pairs = pictures(6)
    expected = fill(DistributionScores(KEYS), pairs).compute()
    assert all(expected.values())
    backwards = DistributionScores(KEYS)
    for i in reversed(range(6)):
        backwards.update(*pairs[i], names=[f"image{i:02}"])
    assert backwards.compute() == expected
    batched = DistributionScores(KEYS).to("cpu")
    for some in (slice(0, 4), slice(4, 6)):
        pred, target = (torch.cat([pair[i] for pair in pairs[some]]) for i in range(2))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batched.update(pred, target, names=[f"image{i:02}" for i in range(6)[some]])
    assert batched.compute() == expected
    assert batched.counts() == dict.fromkeys(KEYS, 6)
    assert batched.reasons() == {}


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_no_score(tiny: Tiny, count: int) -> None:
    scores = fill(DistributionScores(KEYS), pictures(3))
    scores.reset()
    fill(scores, pictures(count))
    assert scores.compute() == dict.fromkeys(KEYS)
    assert scores.counts() == dict.fromkeys(KEYS, count)
    assert scores.reasons() == {
        "fid": "FID needs at least 2 images",
        "kid": "KID needs at least 2 images",
        "fd_lite0": "FD-Lite0 needs at least 2 images",
    }


def test_without_weights_there_is_a_reason_and_no_score(nowhere: Path) -> None:
    scores = fill(DistributionScores(["fid", "kid"]), pictures(3))
    assert scores.compute() == {"fid": None, "kid": None}
    assert scores.counts() == {"fid": 0, "kid": 0}
    for reason in scores.reasons().values():
        assert "\n" not in reason
        for part in (
            "FID Inception unavailable",
            "weights-inception-2015-12-05-6726825d.pth",
            "pt_inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/",
            weights._FID_SHA256,
            str(nowhere / "cache"),
            str(nowhere / "torch" / "hub" / "checkpoints"),
            "DIFFI2I_OFFLINE=1",
        ):
            assert part in reason


@pytest.mark.parametrize("folder", ["cache", "torch/hub/checkpoints"])
@pytest.mark.parametrize("name", weights._FID_FILES)
def test_the_file_is_found_where_either_package_puts_it_and_checked(
    nowhere: Path, folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = nowhere / folder / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"another network")
    with pytest.raises(WeightsUnavailableError, match=f"wrong sha256 .* for {file}"):
        weights.fid_inception()
    monkeypatch.setattr(weights, "_FID_SHA256", hashlib.sha256(b"another network").hexdigest())
    assert weights.fid_inception() == file


def test_saved_targets_are_not_extracted_again(tiny: Tiny, tmp_path: Path) -> None:
    pairs, file = pictures(6), tmp_path / "new" / "statistics.safetensors"
    expected = fill(DistributionScores(KEYS), pairs).compute()
    # Both networks are the tiny one: each image is seen twice.
    tiny.seen = 0
    assert fill(DistributionScores(KEYS, file), pairs[:4]).compute() != expected
    assert tiny.seen == 2 * (4 + 4)
    tiny.seen = 0
    assert fill(DistributionScores(KEYS, file), pairs).compute() == expected
    assert tiny.seen == 2 * (6 + 2)
    tiny.seen, written = 0, file.stat().st_mtime_ns
    again = fill(DistributionScores(KEYS, file), pairs)
    assert again.compute() == expected
    again.reset()
    assert fill(again, pairs[:3]).counts() == dict.fromkeys(KEYS, 3)
    assert tiny.seen == 2 * (6 + 3)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_statistics_file_is_written_anew(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    pairs, file = pictures(4), tmp_path / "statistics.safetensors"
    expected = fill(DistributionScores(KEYS, file), pairs).compute()
    good = file.read_bytes()
    bad = {
        "cut": good[:-20],
        "flipped": good[:-1] + bytes([good[-1] ^ 1]),
        "other": safetensors.torch.save({"x": torch.zeros(2)}),
        "empty": b"",
    }
    file.write_bytes(bad[damage])
    tiny.seen = 0
    with pytest.warns(UserWarning, match=r"statistics.safetensors cannot be read"):
        scores = DistributionScores(KEYS, file)
    assert fill(scores, pairs).compute() == expected
    assert tiny.seen == 2 * (4 + 4)
    assert file.read_bytes() == good


def test_statistics_of_another_network_are_not_used(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, file = pictures(4), tmp_path / "statistics.safetensors"
    fill(DistributionScores(KEYS, file), pairs).compute()
    monkeypatch.setitem(distribution._IDENTITIES, "lite0", "its successor")
    tiny.seen = 0
    fill(DistributionScores(KEYS, file), pairs)
    assert tiny.seen == (4 + 0) + (4 + 4)


def test_where_statistics_cannot_be_written_there_are_scores(tiny: Tiny, tmp_path: Path) -> None:
    scores = fill(DistributionScores(KEYS, tmp_path / "file" / "statistics.safetensors"), pictures(3))
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"statistics.safetensors cannot be written"):
        found = scores.compute()
    assert all(found.values())


class Case(NamedTuple):
    shards: tuple[tuple[int, ...], ...]
    lacking: int | None = None  # the rank without Inception


CASES = {
    2: [
        Case(((0, 2, 4, 6), (1, 3, 5))),
        Case(((), (0, 1, 2, 3, 4, 5, 6))),
        Case(((0, 1, 2, 3), (4, 5, 6)), lacking=1),
    ],
    3: [Case(((6, 1), (), (7, 0, 2, 3, 4, 5)))],
}


def _rank(rank: int, world: int, folder: str) -> None:
    with joined(rank, world, folder):
        found = [_scored(rank, case, Path(folder) / str(i)) for i, case in enumerate(CASES[world])]
    torch.save(found, f"{folder}/{rank}.pt")


def _scored(rank: int, case: Case, statistics: Path) -> tuple[dict[str, float | None], dict[str, int], dict[str, str]]:
    def build(network: str) -> nn.Module:
        if rank == case.lacking and network == "inception":
            raise WeightsUnavailableError("not here")
        return Tiny()

    distribution._build = build
    pairs = pictures(8)
    scores = DistributionScores(KEYS, statistics).to("cpu")
    for i in case.shards[rank]:
        scores.update(*pairs[i], names=[f"image{i:02}"])
    found = scores.compute(), scores.counts(), scores.reasons()
    scores.reset()
    assert scores.compute() == dict.fromkeys(KEYS)
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
@pytest.mark.parametrize("world", CASES)
def test_shards_have_the_scores_of_the_whole(tiny: Tiny, tmp_path: Path, world: int) -> None:
    together(_rank, world, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for i, case in enumerate(CASES[world]):
        pairs = pictures(8)[: sum(map(len, case.shards))]
        missing = [] if case.lacking is None else ["fid", "kid"]
        expected = fill(DistributionScores(KEYS), pairs).compute()
        for rank in ranks:
            scores, counts, reasons = rank[i]
            assert reasons == dict.fromkeys(missing, "not here")
            for key in KEYS:
                assert counts[key] == (0 if key in missing else len(pairs))
                assert scores[key] == (None if key in missing else pytest.approx(expected[key], rel=1e-9))
        # What rank 0 wrote serves a single process.
        tiny.seen = 0
        fill(DistributionScores(["fd_lite0"], tmp_path / str(i)), pairs)
        assert tiny.seen == len(pairs)
