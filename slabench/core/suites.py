"""The suites by name: whatever lists them or depends on one asks here. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from slabench.core import versions


@dataclass(frozen=True)
class SuiteInfo:
    """What is known of a suite without importing it.

    Attributes:
        module: in `slabench.suites`.
        protocol_version: the present one; records of another are stale.
        learner: what records and published rows without a `model.learner` were trained as.
    """

    module: str
    protocol_version: int
    learner: str


SUITES = {
    "fewshot": SuiteInfo("fewshot", versions.FEWSHOT, "episodic"),
    "imbalanced": SuiteInfo("classifier", versions.CLASSIFICATION, "classifier"),
    "supervised": SuiteInfo("classifier", versions.CLASSIFICATION, "classifier"),
}

SCORED = {
    "openset": SuiteInfo("fewshot", versions.OPEN_SET, "episodic"),
    "allclasses": SuiteInfo("fewshot.all_classes", versions.ALL_CLASSES, "frozen"),
}
"""Of records that nothing is trained for: `slabench score` makes them, and no recipe has such a suite."""

KNOWN = SUITES | SCORED
"""All that a record's `suite` may be."""

SUITE_NAMES = " or ".join(", ".join(SUITES).rsplit(", ", 1))
"""`fewshot, imbalanced or supervised`, for help texts."""
