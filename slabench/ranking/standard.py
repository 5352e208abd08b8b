"""Which protocols the field asks about first: what a page, a picture or a terminal shows before the others."""

from __future__ import annotations

import re

from slabench.records.record import RunRecord

_STANDARD = re.compile(r"fewshot/[^/]+/5w[15]s15q|imbalanced/[^/]+/exp-r100/.+|supervised/[^/]+/full/.+")


def standard_setting(protocol: str) -> bool:
    """Whether most papers report this setting: `fewshot/fc100/5w5s15q`, `imbalanced/cifar100/exp-r100/standard`.

    Few-shot: 5 ways, 1 or 5 shots, 15 queries of each class (Snell et al., NIPS 2017). Long tails: those that fall
    exponentially to a hundredth (Cao et al., NeurIPS 2019). Full supervision: the whole training set.
    """
    return _STANDARD.fullmatch(protocol) is not None


def standard(record: RunRecord) -> bool:
    """Whether most papers report the protocol of this record: a standard setting, and inductive."""
    return not record.transductive and not record.pretrained and standard_setting(record.protocol)
