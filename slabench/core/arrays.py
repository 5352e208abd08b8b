"""Arrays from bytes that nobody vouches for: the header is held against the bytes before anything of its size is made."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slabench.core.errors import DataError

_LARGEST_PACKED = 1 << 30  # bytes, unpacked; the side file of 10,000 test images and 3 predictors has 120 kB


def parse_npy(data: bytes, what: str, remedy: str) -> NDArray[Any]:
    """An array of numbers or truth values from the bytes of a `.npy` file; it may not be written to.

    Args:
        data: the bytes.
        what: what to call them in an error.
        remedy: what to do about one.

    Raises:
        DataError: they are no such file, or hold another number of elements than the header says.
    """
    try:
        return _array(data)
    except Exception as error:  # the header is a Python literal: its parser may raise nearly anything
        raise DataError(f"{what} is not a plain npy file: {_said(error)}", remedy) from error


def parse_npz(
    data: bytes, what: str, remedy: str, *, limit: int = _LARGEST_PACKED, text: bool = False
) -> dict[str, NDArray[Any]]:
    """The arrays in the bytes of a `.npz` file, by name.

    Args:
        data: the bytes.
        what: what to call them in an error.
        remedy: what to do about one.
        limit: bytes of all arrays together, unpacked.
        text: whether arrays of text are welcome beside those of numbers.

    Raises:
        DataError: they are no such file, or one array is damaged (see `parse_npy`).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            members = packed.infolist()
            total = sum(member.file_size for member in members)
            if total > limit:
                raise ValueError(f"it unpacks to {total:,} bytes; the limit is {limit:,}")
            return {
                member.filename.removesuffix(".npy"): _array(packed.read(member), "biufU" if text else "biuf")
                for member in members
            }
    except (
        Exception
    ) as error:  # as damaged zip files raise: BadZipFile, zlib.error, NotImplementedError, struct.error, ...
        raise DataError(f"{what} is not a plain npz file: {_said(error)}", remedy) from error


def _array(data: bytes, kinds: str = "biuf") -> NDArray[Any]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = read_header[version](file)
    if dtype.kind not in kinds:
        raise ValueError(f"its elements are of the type {dtype}")
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if min(shape, default=0) < 0 or expected != found:
        raise ValueError(f"its header says {list(shape)} of {dtype}, which is not {found:,} bytes")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")


def _said(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
