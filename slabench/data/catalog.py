"""What is known about each data set, before any of its bytes are here. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slabench.core import registry

if TYPE_CHECKING:
    from slabench.data.imageset import RawImages

_MeanStd = tuple[tuple[float, float, float], tuple[float, float, float]]

# Channel means and deviations that torchvision's models use, in units of 0..255.
_IMAGENET: _MeanStd = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

# Channel means and deviations of MetaOptNet's data loaders, in units of 0..255.
_METAOPTNET_CIFAR: _MeanStd = ((129.37732, 124.10584, 112.47759), (68.20948, 65.43124, 70.45867))
_METAOPTNET_IMAGENET: _MeanStd = ((120.39586, 115.59361, 104.54013), (70.68188, 68.27635, 72.54506))

NORMALISATIONS: dict[str, _MeanStd] = {
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "ldam": ((0.4914 * 255, 0.4822 * 255, 0.4465 * 255), (0.2023 * 255, 0.1994 * 255, 0.2010 * 255)),
}
"""Means and deviations of published code, whatever the images, in units of 0..255: half of SLA's, ldam of LDAM-DRW's."""

_IMAGENET_LICENCE = "ImageNet's terms of access: non-commercial research and education"

_TINY_NOTE = (
    "images stay at 64x64 and are cropped from a border of 8 pixels; SLA's code enlarges them, by RandomResizedCrop(224). The "
    "official test images have no published labels"
)
_SQUARES_NOTE = (
    "of each photograph the store keeps torchvision's Resize(256) and CenterCrop(256). What is tested is then exactly "
    "Resize(256) and CenterCrop(224); what is trained on is RandomResizedCrop(224) within that square, which never sees the rest "
    "of the picture and so differs from RandomResizedCrop on the full one"
)


@dataclass(frozen=True)
class DatasetInfo:
    """One data set that a person can name.

    Attributes:
        name: what is typed after `--dataset`.
        store: the prepared store it is a view of (`fc100` and `cifar-fs` are views of `cifar100`).
        image_size: height and width of the square images, in pixels.
        n_classes: classes of all its splits together.
        summary: one line for listings.
        source: where the images come from.
        licence: what its owners say about its use.
        mean: channel means, in units of 0..255.
        std: channel standard deviations, in units of 0..255.
        crop_padding: pixels of padding before the random crop; 0 for photographs, whose random parts are resized.
        fewshot: splits are classes (train, val, test) rather than images.
        embedded: made on this machine; needs neither download nor import.
        digest: expected digest of the prepared store; None where no trusted copy has been measured.
        dropblock_size: block edge of DropBlock, in feature-map cells (MetaOptNet: 2 at 32 px, 5 at 84 px).
        mirror: a mirrored image keeps its class; false for characters, where b would become d.
        classes: names of the store's classes in label order; empty where the source itself decides.
        per_class: official training and test images of every class; (0, 0) where classes differ.
        totals: official training and test images of all classes together, where classes differ; otherwise (0, 0).
        url: the publisher's archive of the original batches; empty where there is none.
        md5: the publisher's checksum of that archive.
        first_labels: labels of the first training images in the original order, by which a source that has kept that
            order is known; empty where unknown.
        lossless: published as raw pixels: a JPEG file of one of its images is a lossy copy.
        batch_md5: the publisher's checksums of the original batches, by file name; empty where unknown.
        note: what its store keeps of the original images, where that is not all of them.
        make: of a plug-in's embedded data set: makes its images; see `slabench.data.plugin_dataset.dataset`.
        class_split: of a plug-in's few-shot data set: names of the classes of `train`, `val` and `test`.
        own: of a user's own images, imported by `slabench data import-folder`: the folder of their store and split files.
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
    url: str = ""
    md5: str = ""
    first_labels: tuple[int, ...] = ()
    lossless: bool = False
    batch_md5: Mapping[str, str] = field(default_factory=dict, hash=False)
    note: str = ""
    make: Callable[[], RawImages] | None = None
    class_split: Mapping[str, tuple[str, ...]] | None = None
    own: Path | None = None

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
        """Whether `slabench data get` knows a way to fetch it (mini-ImageNet through learn2learn)."""
        return bool(self.url) or self.store == "mini-imagenet"

    @property
    def command(self) -> str:
        """The command that brings the data here."""
        if self.own is not None:
            return f"slabench data import-folder {self.store} PATH"
        here = self.downloadable or self.embedded
        return f"slabench data get {self.store}" if here else f"slabench data import {self.store} PATH"


def _cifar(
    name: str,
    classes: tuple[str, ...],
    per_class: tuple[int, int],
    summary: str,
    mean_std: _MeanStd,
    url: str,
    md5: str,
    *,
    first_labels: tuple[int, ...] = (),
    batch_md5: Mapping[str, str],
    digest: str | None = None,
    source: str = "https://www.cs.toronto.edu/~kriz/cifar.html",
    licence: str = "no licence was published; free to download for research, cite Krizhevsky (2009)",
) -> DatasetInfo:
    """Photographs of 32 x 32 pixels, published as python batches; see `slabench.data.sources.pybatches`."""
    return DatasetInfo(
        name=name,
        store=name,
        image_size=32,
        n_classes=len(classes),
        summary=summary,
        source=source,
        licence=licence,
        mean=mean_std[0],
        std=mean_std[1],
        crop_padding=4,
        fewshot=False,
        embedded=False,
        digest=digest,
        dropblock_size=2,
        classes=classes,
        per_class=per_class,
        url=url,
        md5=md5,
        first_labels=first_labels,
        lossless=True,
        batch_md5=batch_md5,
    )


def _fewshot_view(of: DatasetInfo, name: str, summary: str, mean_std: _MeanStd) -> DatasetInfo:
    """A few-shot split of a data set that is there already; its classes are a file in `episodes/`."""
    return replace(of, name=name, summary=summary, mean=mean_std[0], std=mean_std[1], fewshot=True)


def _embedded(name: str, n_classes: int, summary: str, source: str, licence: str, fewshot: bool) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        store=name,
        image_size=32,
        n_classes=n_classes,
        summary=summary,
        source=source,
        licence=licence,
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        crop_padding=4,
        fewshot=fewshot,
        embedded=True,
        digest=None,
        dropblock_size=2,
        mirror=False,
    )


def _photographs(
    name: str,
    n_classes: int,
    summary: str,
    source: str,
    licence: str,
    *,
    size: int = 256,
    note: str = _SQUARES_NOTE,
    classes: tuple[str, ...] = (),
    per_class: tuple[int, int] = (0, 0),
    totals: tuple[int, int] = (0, 0),
) -> DatasetInfo:
    """A data set of full supervision; see `slabench.data.sources.photographs`."""
    return DatasetInfo(
        name=name,
        store=name,
        image_size=size,
        n_classes=n_classes,
        summary=summary,
        source=source,
        licence=licence,
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        crop_padding=8 if size == 64 else 0,
        fewshot=False,
        embedded=False,
        digest=None,
        dropblock_size=5,
        classes=classes,
        per_class=per_class,
        totals=totals,
        note=note,
    )


# Alphabetical, which is the label order of the original archive's `fine_label_names`.
_CIFAR100_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905 - a hundred lines otherwise
)

# tiny-ImageNet's wnids.txt, sorted.
_TINY_CLASSES = tuple(
    """n01443537 n01629819 n01641577 n01644900 n01698640 n01742172 n01768244 n01770393 n01774384 n01774750 n01784675 n01855672
    n01882714 n01910747 n01917289 n01944390 n01945685 n01950731 n01983481 n01984695 n02002724 n02056570 n02058221 n02074367
    n02085620 n02094433 n02099601 n02099712 n02106662 n02113799 n02123045 n02123394 n02124075 n02125311 n02129165 n02132136
    n02165456 n02190166 n02206856 n02226429 n02231487 n02233338 n02236044 n02268443 n02279972 n02281406 n02321529 n02364673
    n02395406 n02403003 n02410509 n02415577 n02423022 n02437312 n02480495 n02481823 n02486410 n02504458 n02509815 n02666196
    n02669723 n02699494 n02730930 n02769748 n02788148 n02791270 n02793495 n02795169 n02802426 n02808440 n02814533 n02814860
    n02815834 n02823428 n02837789 n02841315 n02843684 n02883205 n02892201 n02906734 n02909870 n02917067 n02927161 n02948072
    n02950826 n02963159 n02977058 n02988304 n02999410 n03014705 n03026506 n03042490 n03085013 n03089624 n03100240 n03126707
    n03160309 n03179701 n03201208 n03250847 n03255030 n03355925 n03388043 n03393912 n03400231 n03404251 n03424325 n03444034
    n03447447 n03544143 n03584254 n03599486 n03617480 n03637318 n03649909 n03662601 n03670208 n03706229 n03733131 n03763968
    n03770439 n03796401 n03804744 n03814639 n03837869 n03838899 n03854065 n03891332 n03902125 n03930313 n03937543 n03970156
    n03976657 n03977966 n03980874 n03983396 n03992509 n04008634 n04023962 n04067472 n04070727 n04074963 n04099969 n04118538
    n04133789 n04146614 n04149813 n04179913 n04251144 n04254777 n04259630 n04265275 n04275548 n04285008 n04311004 n04328186
    n04356056 n04366367 n04371430 n04376876 n04398044 n04399382 n04417672 n04456115 n04465501 n04486054 n04487081 n04501370
    n04507155 n04532106 n04532670 n04540053 n04560804 n04562935 n04596742 n04597913 n06596364 n07579787 n07583066 n07614500
    n07615774 n07695742 n07711569 n07715103 n07720875 n07734744 n07747607 n07749582 n07753592 n07768694 n07871810 n07873807
    n07875152 n07920052 n09193705 n09246464 n09256479 n09332890 n09428293 n12267677""".split()  # noqa: SIM905
)

_CIFAR100 = _cifar(
    "cifar100",
    _CIFAR100_CLASSES,
    (500, 100),
    "100 classes of 32x32 photographs, 500 training and 100 test images each",
    ((129.30, 124.07, 112.43), (68.17, 65.39, 70.42)),
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    first_labels=(19, 29, 0, 11, 1),
    batch_md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    # Computed from lossless PNG files of all 60,000 images; see slabench.data.store.dataset_digest.
    digest="b73708e141c1f8022b3909057aa1700be342b7998d5dd7ba6022894aebbf5ad0",
)

_ALL = (
    _CIFAR100,
    _cifar(
        "cifar10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        (5000, 1000),
        "10 classes of 32x32 photographs, 5,000 training and 1,000 test images each",
        ((125.31, 122.95, 113.87), (62.99, 62.09, 66.70)),
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        first_labels=(6, 9, 9, 4, 1, 1, 2, 7, 8, 3),
        batch_md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
    _fewshot_view(
        _CIFAR100,
        "fc100",
        "CIFAR-100 split by superclass: 60 training, 20 validation, 20 test classes (Oreshkin et al. 2018)",
        _METAOPTNET_CIFAR,
    ),
    _fewshot_view(
        _CIFAR100,
        "cifar-fs",
        "CIFAR-100 split at random: 64 training, 16 validation, 20 test classes (Bertinetto et al. 2019)",
        _METAOPTNET_CIFAR,
    ),
    DatasetInfo(
        name="mini-imagenet",
        store="mini-imagenet",
        image_size=84,
        n_classes=100,
        summary="100 ImageNet classes at 84x84: 64 training, 16 validation, 20 test classes (Ravi and Larochelle 2017)",
        source="https://github.com/twitter/meta-learning-lstm (split) and ImageNet (images)",
        licence=_IMAGENET_LICENCE,
        mean=_METAOPTNET_IMAGENET[0],
        std=_METAOPTNET_IMAGENET[1],
        crop_padding=8,
        fewshot=True,
        embedded=False,
        digest=None,
        dropblock_size=5,
        per_class=(600, 0),
    ),
    _photographs(
        "tiny-imagenet",
        200,
        "200 ImageNet classes at 64x64: 500 training images each; the 50 validation images each are the test",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        _IMAGENET_LICENCE,
        size=64,
        note=_TINY_NOTE,
        classes=_TINY_CLASSES,
        per_class=(500, 50),
    ),
    _photographs(
        "cub200",
        200,
        "CUB-200-2011: photographs of 200 bird species, 5,994 for training and 5,794 for the test, kept at 256x256",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz)",
        "non-commercial research and education",
        totals=(5994, 5794),
    ),
    _photographs(
        "mit67",
        67,
        "MIT Indoor 67: photographs of 67 kinds of rooms, 5,360 for training and 1,340 for the test, kept at 256x256",
        "https://web.mit.edu/torralba/www/indoor.html (indoorCVPR_09.tar, TrainImages.txt, TestImages.txt)",
        "research; images of several owners",
        totals=(5360, 1340),
    ),
    _photographs(
        "stanford-dogs",
        120,
        "Stanford Dogs: photographs of 120 breeds, 12,000 for training and 8,580 for the test, kept at 256x256",
        "http://vision.stanford.edu/aditya86/ImageNetDogs/ (images.tar, lists.tar)",
        _IMAGENET_LICENCE,
        totals=(12000, 8580),
    ),
    _embedded(
        "glyphs",
        121,
        "characters drawn on this machine in matplotlib's fonts; families that a quarter or half turn mixes up",
        "drawn by slabench.data.sources.embedded with the fonts that matplotlib ships",
        "fonts under the Bitstream Vera, DejaVu and STIX licences; the images are free",
        fewshot=True,
    ),
    _embedded(
        "digits",
        10,
        "scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to 32x32",
        "https://doi.org/10.24432/C50P49 (UCI Optical Recognition of Handwritten Digits), as shipped by scikit-learn",
        "CC BY 4.0 (UCI)",
        fewshot=False,
    ),
)

for _entry in _ALL:
    registry.DATASETS.add(_entry.name, _entry, _entry.summary)
DATASETS: Mapping[str, DatasetInfo] = registry.DATASETS.objects()
"""By name, plug-ins included."""


def normalised_by(entry: DatasetInfo, name: str) -> DatasetInfo:
    """The entry with the mean and deviation called `name` in `NORMALISATIONS`; `catalog` leaves it as it is."""
    if name == "catalog":
        return entry
    mean, std = NORMALISATIONS[name]
    return replace(entry, mean=mean, std=std)


def info(name: str) -> DatasetInfo:
    """The catalog entry called `name`; an unknown name raises with a did-you-mean."""
    entry: DatasetInfo = registry.DATASETS.get(name)
    return entry
