"""What the tests of the conformance suite share."""

from __future__ import annotations

from slabench.conformance import Finding

calls = [0]
"""How often a method that remembers was called."""


def wrong(findings: list[Finding]) -> dict[str, str]:
    """Name and message of the checks that fail."""
    return {finding.check: finding.message for finding in findings if finding.state == "wrong"}
