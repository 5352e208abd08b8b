"""Damaged files, and what a reader makes of each: it may take it, refuse it by name, and nothing else.

All of it, at least 100,000 inputs a reader, with the kills of `killing.py`: `python tests/attack.py`.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

from hostile_readers import Reader

from slabench.core.errors import SlabenchError

SECONDS = 20
"""That one input may take on a busy machine; an honest one takes milliseconds."""

ODD = (
    *(b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00" * 8, b"\xff" * 8, b"\x80"),
    *(b"9" * 5000, b"-1", b"0", b"1e999", b"NaN", b"null", b"[]", b"{}", b"[" * 2000, b"(" * 2000, b"{" * 500),
    *(b'"\\ud800"', b"\\u0000", b"../..", b"\n", b",", b'"', b"'", b"=", b"True", b"x" * 300, "é".encode("latin-1")),
)


def damaged(seeds: tuple[bytes, ...], draw: random.Random) -> bytes:
    """A whole file with one to four injuries: bytes changed, cut, repeated, moved, or replaced by odd ones."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(len(data) + 1)
        length = min(draw.choice((1, 2, 4, 8, 40)), len(data) - place)
        kind = draw.randrange(6)
        if kind == 0 and place < len(data):
            data[place] = draw.randrange(256)
        elif kind == 1 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 2:
            data[place : place + draw.choice((0, length))] = draw.choice(ODD)
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length] * draw.choice((1, 2, 50))
        elif draw.random() < 0.2:
            del data[place:]
    return bytes(data)


def attack(reader: Reader, n: int, seed: int = 0, told: Callable[[str], object] = lambda line: None) -> Counter[str]:
    """Give a reader its whole files and `n` damaged ones.

    Returns:
        How many were `taken` and `refused`, and how many of each kind of fault there were; `told` hears of each fault.
    """
    for whole in reader.seeds:
        reader.read(whole)
    draw, found = random.Random(seed), Counter[str]()
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        for number in range(n):
            data = damaged(reader.seeds, draw)
            begin = time.monotonic()
            signal.alarm(SECONDS)
            try:
                reader.read(data)
                found["taken"] += 1
            except SlabenchError as error:
                found["refused" if error.message else "FAULT an error without words"] += 1
            except Exception as error:
                found[f"FAULT {type(error).__name__}"] += 1
                told(
                    f"input {number} of seed {seed}: {error!r} after {time.monotonic() - begin:.1f} s: {data[:2000]!r}"
                )
            finally:
                signal.alarm(0)
    finally:
        signal.signal(signal.SIGALRM, before)
    return found


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"one input took more than {SECONDS} s")
