"""Which protocols the field asks about first: what a page or a picture shows before the others."""

from __future__ import annotations

import re

from slabench.records.record import RunRecord

_STANDARD = re.compile(r"fewshot/[^/]+/5w[15]s15q|imbalanced/[^/]+/exp-r100/.+|supervised/[^/]+/full/.+")


def standard(record: RunRecord) -> bool:
    """Whether most papers report the protocol of this record.

    Few-shot: 5 ways, 1 or 5 shots, 15 queries of each class, inductive (Snell et al., NIPS 2017). Long tails: those that fall
    exponentially to a hundredth (Cao et al., NeurIPS 2019). Full supervision: the whole training set.
    """
    return not record.transductive and _STANDARD.fullmatch(record.protocol) is not None
