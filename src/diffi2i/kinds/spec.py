"""What a configuration must know of each kind of prediction, before anything heavy is imported.

All else of a kind is the file beside this one that has its name; `kinds.kind` says what stands there.
"""

from dataclasses import dataclass

IGNORED = 255
"""The label of pixels that count in no loss and no score."""


@dataclass(frozen=True)
class Spec:
    """One kind.

    Attributes:
        network: the class of networks that predict it.
        datasets: some that hold it, in words.
        reader: the class that reads it from files beside the photos (see `data.targets`); None where it is a photo.
        classes: it has a channel for each of the dataset's classes.
    """

    network: str
    datasets: str
    reader: str | None = None
    classes: bool = False

    @property
    def dense(self) -> bool:
        """It is a map beside a photo, and so has other crops, settings and scores than a photo that is restored."""
        return self.reader is not None


KINDS = {
    "image": Spec("DI2Iformer", "photos, folder, pairs, df2k, gopro, ..."),
    "labels": Spec("Segmenter", "shapes, camvid, ade20k or label_pairs (your own)", "Labels", classes=True),
    "depth": Spec("Depther", "motorcycle, sevenscenes, nyu or depth_pairs (your own)", "Depth"),
}
