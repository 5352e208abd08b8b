"""What reading a pickle would cost, found out before it is read.

The restricted reader (`unpickle`) runs nothing that a pickle names, yet a few hundred bytes can still ask for gigabytes or for
years: a tuple of twice a tuple of twice a tuple, a key of that kind to be hashed, an index into a table of billions. So the
operations are walked through first, by Python's own description of them (`pickletools`), with a stack on which each value
is only a few numbers. Data of images and labels stays far below every limit here.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import BinaryIO

from slabench.core.errors import UnsafePickleError

LARGEST = 2 << 30
"""Bytes of a pickle; the largest known of images, mini-ImageNet's training cache, has 0.8 GB."""
STEPS = 1_000_000
"""Operations, values within one value, values walked through in calls and keys; a batch of CIFAR-100 has 250,000."""
DEEPEST = 32
KEYS = 20_000
"""Keys of all dicts and sets together: keys can be chosen so that each is compared with all others."""
LONGEST_NUMBER = 512
"""Bytes of a whole number."""
_COPIES = 4
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_SMALL = 1 << 20

_REMEDY = "none of its code was run; get the data set anew from its publisher"
# What pickles of plain containers and arrays do not have: copies of the top, instances, classes by number.
_REFUSED = frozenset(
    ["DUP", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"]
)
_GROW = frozenset(["APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"])
_PUT = frozenset(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"])
_GET = frozenset(["GET", "BINGET", "LONG_BINGET"])
_NUMBERS = frozenset(["INT", "LONG", "LONG1", "LONG4"])
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


@dataclass(slots=True)
class _Value:
    """A value on the stack: how many values it holds in all, how many at once (and they, together), how deep, of how many bytes.

    A name (`GLOBAL`) is closed from the start: nothing may write to a class. A container is closed once it is within another,
    as pickles are written; so what is said of it here stays true, and no value holds itself.
    """

    weight: int = 1
    items: int = 0
    inner: int = 0
    depth: int = 0
    size: int = 0
    closed: bool = False


class _Budget:
    """The stack and the memo of one pickle, and what has been spent."""

    def __init__(self, file_size: int) -> None:
        self.stack: list[_Value | None] = []  # None: a mark
        self.memo: dict[int, _Value] = {}
        self.steps = self.walked = self.keys = self.copied = 0
        self.most_bytes = _COPIES * file_size + _SMALL

    def step(self, opcode: pickletools.OpcodeInfo, argument: int) -> None:
        """One operation; `argument` is its index, or the bytes of its data."""
        name = opcode.name
        self.steps += 1
        self._limit(self.steps, STEPS, "operations")
        if name in _REFUSED:
            raise UnsafePickleError(f"it has the operation {name}, which images and labels do not need", _REMEDY)
        if name == "MARK":
            self.stack.append(None)
        elif name in _PUT:
            index = len(self.memo) if name == "MEMOIZE" else argument
            if index > self.steps:
                raise UnsafePickleError(f"it keeps a value at the place {index:,} of a table so long", _REMEDY)
            self.memo[index] = self._top()
        elif name in _GET:
            if argument not in self.memo:
                raise EOFError(f"it asks for value {argument:,}, which was not kept")
            self.stack.append(self.memo[argument])
        elif name == "POP" and self.stack and self.stack[-1] is None:
            self.stack.pop()
        elif opcode.stack_before:
            self._apply(opcode, argument)
        elif opcode.stack_after:
            if name in _NUMBERS:
                self._limit(argument, LONGEST_NUMBER, "bytes of one number")
            self.stack.append(_Value(size=argument, closed=name == "GLOBAL"))

    def _apply(self, opcode: pickletools.OpcodeInfo, size: int) -> None:
        name, before = opcode.name, opcode.stack_before
        marked = pickletools.markobject in before
        taken = self._above_mark() if marked else []
        below = before.index(pickletools.markobject) if marked else len(before)
        taken = [self._pop() for _ in range(below)][::-1] + taken
        if name in _GROW:
            made, taken = taken[0], taken[1:]
            if made.closed or any(value is made for value in taken):
                raise UnsafePickleError("it writes to a value that is already within another, or to a class", _REMEDY)
        else:
            made = _Value(0 if name in ("POP", "POP_MARK") else 1)
        if name in ("REDUCE", "BUILD"):
            # A set or dict is made of the items of the one argument, which is within a tuple.
            self._spend(taken, sum(value.inner for value in taken))
            self.copied += sum(value.size for value in taken)
            self._limit(self.copied, self.most_bytes, "bytes in calls")
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            self._spend(taken[::2], len(taken[::2]))
        elif name in ("ADDITEMS", "FROZENSET"):
            self._spend(taken, len(taken))
        made.weight += sum(value.weight for value in taken)
        made.items += len(taken)
        made.inner += sum(value.items for value in taken)
        made.size += size + sum(value.size for value in taken)
        made.depth = max([made.depth, *(value.depth + 1 for value in taken)])
        self._limit(made.weight, STEPS, "values within one")
        self._limit(made.depth, DEEPEST, "levels of values within values")
        self._limit(made.size, self.most_bytes, "bytes within one value")
        for value in taken:
            value.closed = True
        if opcode.stack_after:
            made.closed = made.closed or name == "STACK_GLOBAL"
            self.stack.append(made)

    def _spend(self, hashed: list[_Value], keys: int) -> None:
        self.keys += keys
        self._limit(self.keys, KEYS, "keys of dicts and sets")
        self.walked += sum(value.weight for value in hashed)
        self._limit(self.walked, STEPS, "values walked through")

    def _top(self) -> _Value:
        value = self.stack[-1] if self.stack else None
        if value is None:
            raise EOFError("it takes a value that is not there")
        return value

    def _pop(self) -> _Value:
        value = self._top()
        self.stack.pop()
        return value

    def _above_mark(self) -> list[_Value]:
        taken = []
        while self.stack and self.stack[-1] is not None:
            taken.append(self._pop())
        if not self.stack:
            raise EOFError("it takes values down to a mark that is not there")
        self.stack.pop()
        return taken[::-1]

    def _limit(self, found: int, limit: int, what: str) -> None:
        if found > limit:
            raise UnsafePickleError(f"it has {found:,} {what}; the limit is {limit:,}", _REMEDY)


def check_cost(file: BinaryIO) -> None:
    """Walk through the pickle at the beginning of `file`, and go back there.

    Raises:
        UnsafePickleError: it asks for more than images and labels need.
        EOFError: it is cut off, or no pickle at all.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if size > LARGEST:
        raise UnsafePickleError(f"it has {size:,} bytes; the limit is {LARGEST:,}", _REMEDY)
    budget = _Budget(size)
    while True:
        code = file.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise EOFError("it ends before its end" if not code else f"unknown operation {code!r}")
        argument = _argument(file, opcode, size) if opcode.arg is not None else 0
        if opcode.name == "STOP":
            break
        budget.step(opcode, argument)
    file.seek(0)


def _argument(file: BinaryIO, opcode: pickletools.OpcodeInfo, size: int) -> int:
    """The number that an operation has as its argument, or the length of any other; the file is then behind it."""
    assert opcode.arg is not None
    n = opcode.arg.n
    if n == pickletools.UP_TO_NEWLINE:
        lines = [file.readline() for _ in range(2 if opcode.name in ("GLOBAL", "INST") else 1)]
        if not all(line.endswith(b"\n") for line in lines):
            raise EOFError("it ends within an operation")
        return int(lines[0]) if opcode.name in ("GET", "PUT") else sum(map(len, lines))
    head = _LENGTHS.get(n, n)
    data = file.read(head)
    if len(data) < head:
        raise EOFError("it ends within an operation")
    number = int.from_bytes(data, "little")
    if n >= 0 and opcode.name != "FRAME":
        return number if opcode.name in _PUT or opcode.name in _GET else n
    if number > size - file.tell():
        raise EOFError(f"it has {size:,} bytes and says that {number:,} more follow")
    if opcode.name != "FRAME":
        file.seek(number, 1)
    return number
