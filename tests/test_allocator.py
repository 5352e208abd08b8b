"""Keeping the heap: it is set where it can be, can be switched off, and does what it says."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from slabench.training.device import keep_heap

GLIBC = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"

# Faults of ten rounds of allocating and freeing 64 MiB, after a first one that does not count.
_FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from slabench.training.device import keep_heap
    assert keep_heap()
np.ones(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLABENCH_KEEP_HEAP", "0")
    assert keep_heap() is False


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert keep_heap() is False


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_freed_blocks_are_used_again_instead_of_being_mapped_anew() -> None:
    def faults(mode: str) -> int:
        # glibc raises its own thresholds as it goes; turned off, so that the default side is what large tensors meet.
        run = subprocess.run([sys.executable, "-c", _FAULTS, mode], capture_output=True, text=True, check=True)
        return int(run.stdout)

    # 64 MiB are 16,384 pages (or 32 huge ones); kept, a round costs next to none of them.
    assert faults("keep") * 10 < faults("default")
