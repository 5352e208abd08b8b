"""Keep glibc from giving memory back between steps.

Every training step allocates the same large blocks. By default glibc maps each anew and unmaps it after use, so that the
kernel zeroes gigabytes of pages a second; `benchmarks/speed/allocation.py` measures what that costs.
"""

from __future__ import annotations

import ctypes
import os
import platform

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_TOP_PAD_BYTES = 256 << 20
_NEVER = 2**31 - 1


def keep_heap() -> bool:
    """Serve large blocks from the heap and never trim it, for this process.

    Returns:
        Whether it was set: only on Linux with glibc, and not where `SLABENCH_KEEP_HEAP=0`. Calling it twice is harmless.
    """
    if os.environ.get("SLABENCH_KEEP_HEAP") == "0" or platform.system() != "Linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018 - another libc has no such symbol
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD_BYTES))
        return all(libc.mallopt(name, value) == 1 for name, value in settings)
    except (OSError, AttributeError):
        return False
