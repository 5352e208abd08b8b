"""The fully supervised data sets of the SLA paper beside CIFAR: tiny-ImageNet, CUB-200-2011, MIT Indoor 67, Stanford Dogs."""

from __future__ import annotations

from slabench.data.catalog_entry import DatasetInfo

# ImageNet's usual 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225, in units of 0..255.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)

_IMAGENET_TERMS = "ImageNet's terms of access: non-commercial research and education"
_NOTE = (
    "the store keeps torchvision's Resize(256) and CenterCrop(256) of each photograph (bilinear, antialiased). Test images are "
    "then exactly the usual Resize(256) + CenterCrop(224); training crops are RandomResizedCrop(224) within the stored square, "
    "which never see what lies outside it and differ from RandomResizedCrop on the full picture"
)


def _photographs(
    name: str, n_classes: int, summary: str, source: str, licence: str, totals: tuple[int, int]
) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        store=name,
        image_size=256,
        n_classes=n_classes,
        summary=summary + "; kept as 256x256 centre crops",
        source=source,
        licence=licence,
        mean=_MEAN,
        std=_STD,
        crop_padding=0,
        fewshot=False,
        embedded=False,
        digest=None,
        dropblock_size=5,
        totals=totals,
        note=_NOTE,
    )


SUPERVISED = (
    DatasetInfo(
        name="tiny-imagenet",
        store="tiny-imagenet",
        image_size=64,
        n_classes=200,
        summary="200 ImageNet classes at 64x64: 500 training images each, the official 50 validation images each as test",
        source="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        licence=_IMAGENET_TERMS,
        mean=_MEAN,
        std=_STD,
        crop_padding=8,
        fewshot=False,
        embedded=False,
        digest=None,
        dropblock_size=2,
        per_class=(500, 50),
        note=(
            "images stay at 64x64 and are cropped from a border of 8 pixels; SLA's code enlarges them to 224x224 by "
            "RandomResizedCrop. The labels of the official test images were never published"
        ),
    ),
    _photographs(
        "cub200",
        200,
        "CUB-200-2011: 200 bird species, 5,994 training and 5,794 test photographs (Wah et al. 2011)",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz)",
        "the photographers' own; for non-commercial research and education",
        totals=(5994, 5794),
    ),
    _photographs(
        "mit67",
        67,
        "MIT Indoor 67: 67 indoor scenes, 5,360 training and 1,340 test photographs (Quattoni and Torralba 2009)",
        "https://web.mit.edu/torralba/www/indoor.html (indoorCVPR_09.tar, TrainImages.txt, TestImages.txt)",
        "the photographers' own; for research",
        totals=(5360, 1340),
    ),
    _photographs(
        "stanford-dogs",
        120,
        "Stanford Dogs: 120 breeds from ImageNet, 12,000 training and 8,580 test photographs (Khosla et al. 2011)",
        "http://vision.stanford.edu/aditya86/ImageNetDogs/ (images.tar, lists.tar)",
        _IMAGENET_TERMS,
        totals=(12000, 8580),
    ),
)
