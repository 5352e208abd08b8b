"""Pickles of plain containers and numeric numpy arrays, read without trusting them.

A pickle is a program; whatever it may name, it may call. Here it may name only the classes below, none of which is
numpy's own: an array is first read as a description (element type, shape, bytes), checked, and only then made. A pickle
that names anything else is refused before a byte of it acts, and one that would cost too much before it is read
(`pickle_budget`).
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from slabench.core.errors import DataError, UnsafePickleError
from slabench.data.sources.pickle_budget import check_cost

_MOST_AXES = 32
_NUMERIC = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


def read_pickle(file: BinaryIO, name: str) -> Any:
    """Read one pickle of dicts, lists, tuples, sets, text, bytes, numbers and numeric arrays.

    Strings of a Python 2 pickle come as bytes.

    Args:
        file: an open binary file, at its beginning.
        name: what to call it in an error.

    Raises:
        UnsafePickleError: it names a class or function that such data does not need, or asks for too much.
        DataError: it is cut off, or no pickle at all.
    """
    try:
        check_cost(file)
        return _finish(_Reader(file, encoding="bytes").load())
    except DataError as error:
        raise type(error)(f"{name}: {error.message}", error.remedy) from None
    except Exception as error:  # the pickle machine may raise nearly anything on damaged input
        raise DataError(
            f"{name} is not a whole pickle ({type(error).__name__}: {error})",
            "it may be a cut-off download: fetch it again, then import",
        ) from error


class _DType:
    """Stands for `numpy.dtype` while a pickle is read: numeric element types only."""

    def __init__(self, spec: str | bytes, *_: object) -> None:
        text = spec.decode("ascii") if isinstance(spec, bytes) else spec
        if not isinstance(text, str) or not _NUMERIC.fullmatch(text):
            raise UnsafePickleError(
                f"it holds an array of '{str(text)[:60]}', which is not a plain number", "none of its code was run"
            )
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stands for `numpy.ndarray` while a pickle is read."""

    value: npt.NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> npt.NDArray[Any]:
    if isinstance(data, str):  # numpy arrays of some Python 2 pickles
        data = data.encode("latin1")
    if not isinstance(dtype, _DType) or not isinstance(data, bytes | bytearray):
        raise UnsafePickleError("it holds an array of objects", "none of its code was run")
    if len(shape) > _MOST_AXES:
        raise DataError(f"an array has {len(shape):,} axes", "fetch the file again, then import")
    sizes = tuple(int(size) for size in shape)
    flat = np.frombuffer(data, dtype.dtype)
    if math.prod(sizes) != flat.size or min(sizes, default=0) < 0:
        raise DataError(f"an array of shape {sizes} has {flat.size} elements", "fetch the file again, then import")
    return flat.reshape(sizes, order="F" if order == "F" else "C")


def _reconstruct(subtype: object, _shape: object, _typecode: object) -> _Array:
    if subtype is not _Array:
        raise UnsafePickleError("it holds an array of a foreign class", "none of its code was run")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.value = _array(data, dtype, shape, order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, by which Python 3 writes bytes for Python 2: latin-1 is the one encoding it uses."""
    if encoding != "latin1":
        raise UnsafePickleError(f"it asks for the codec '{str(encoding)[:60]}'", "none of its code was run")
    return text.encode("latin1")


def _bytearray(content: str | bytes = b"", encoding: str = "latin1") -> bytearray:
    """`bytearray` of bytes, or of latin-1 text (`latin-1` in old pickles); called with a number it would make as many zeros."""
    if isinstance(content, str):
        return bytearray(_encode(content, encoding.replace("latin-1", "latin1")))
    if not isinstance(content, bytes):
        raise UnsafePickleError(f"it asks for a bytearray of {type(content).__name__}", "none of its code was run")
    return bytearray(content)


def _no_bytes() -> bytes:
    """`bytes()`, by which Python 3 writes empty bytes for Python 2."""
    return b""


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    **{(module, "bytearray"): _bytearray for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, frozenset)
    },
}


class _Reader(pickle.Unpickler):
    """Refuses every name but those of `_ADMITTED`."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The stand-in for an admitted name."""
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise UnsafePickleError(
                f"it asks for {module_name}.{global_name}, which images and labels do not need",
                "do not open this file with anything else; get the data set anew from its publisher",
            ) from None

    def persistent_load(self, pid: object, /) -> Any:
        """Persistent objects are references to something outside the file: refused."""
        raise UnsafePickleError(
            f"it asks for the outside object {str(pid)[:60]!r}", "get the data set anew from its publisher"
        )


def _finish(value: Any) -> Any:
    """Put arrays in the place of their stand-ins."""
    if isinstance(value, _Array):
        if not hasattr(value, "value"):
            raise DataError("it has an array without content", "fetch the file again, then import")
        return value.value
    if isinstance(value, dict):
        return {_finish(key): _finish(item) for key, item in value.items()}
    if isinstance(value, list) and any(isinstance(item, dict | list | tuple | _Array) for item in value):
        return [_finish(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_finish(item) for item in value)
    return value
