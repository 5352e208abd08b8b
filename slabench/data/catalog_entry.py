"""The form of a catalog entry: all that is known of a data set before any of its bytes are here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """One data set that a person can name.

    Attributes:
        name: what is typed after `--dataset`.
        store: the prepared store it is a view of (`fc100` and `cifar-fs` are views of `cifar100`).
        image_size: height and width of the square images, in pixels; photographs are kept at 256 and enter a network at 224.
        n_classes: classes of all its splits together.
        summary: one line for listings.
        source: where the images come from.
        licence: what its owners say about its use.
        mean: channel means, in units of 0..255.
        std: channel standard deviations, in units of 0..255.
        crop_padding: pixels of padding before the random crop; 0 for photographs, whose crops are resized.
        fewshot: splits are classes (train, val, test) rather than images.
        embedded: made on this machine; needs neither download nor import.
        digest: expected digest of the prepared store; None where no trusted copy has been measured.
        dropblock_size: block edge of DropBlock, in feature-map cells (MetaOptNet: 2 at 32 px, 5 at 84 px).
        mirror: a mirrored image keeps its class; false for characters, where b would become d.
        classes: names of the store's classes in label order; empty where the source itself decides.
        per_class: official training and test images of every class; (0, 0) where classes differ.
        totals: official training and test images of all classes together; 0 where nothing is published.
        totals: official training and test images of all classes together, where classes differ; (0, 0) where `per_class`
            says it.
        url: the publisher's archive of the original batches; empty where there is none.
        md5: the publisher's checksum of that archive.
        first_labels: labels of the first training images in the original order, by which a source that has kept that
            order is known; empty where unknown.
        note: what its store keeps of the original images, where that is not all of them.
    """

    name: str
    store: str
    image_size: int
    n_classes: int
    summary: str
    source: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_padding: int
    fewshot: bool
    embedded: bool
    digest: str | None
    dropblock_size: int
    mirror: bool = True
    classes: tuple[str, ...] = ()
    per_class: tuple[int, int] = (0, 0)
    totals: tuple[int, int] = (0, 0)
    totals: tuple[int, int] = (0, 0)
    url: str = ""
    md5: str = ""
    first_labels: tuple[int, ...] = ()
    note: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names that `slabench.data.load` takes for this data set."""
        return ("train", "val", "test") if self.fewshot else ("train", "test", "all")

    @property
    def n_published(self) -> int:
        """Official images of all classes and parts; 0 where unknown."""
        return sum(self.totals) or sum(self.per_class) * self.n_classes

    @property
    def downloadable(self) -> bool:
        """Whether `slabench data get` can fetch it (mini-ImageNet through learn2learn)."""
        return bool(self.url) or self.store == "mini-imagenet"
