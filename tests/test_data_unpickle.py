"""The restricted unpickler: what it reads, what it refuses, and that nothing refused was run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from data_layouts import python2_pickle
from hypothesis import given, settings
from hypothesis import strategies as st

from slabench.core.errors import DataError, UnsafePickleError
from slabench.data.sources.unpickle import read_pickle


def read(data: bytes):
    return read_pickle(io.BytesIO(data), "file.pkl")


ARRAYS = {
    "uint8": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "big-endian": np.arange(6, dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 4), np.int64),
    "bool": np.array([True, False]),
    "scalar-shaped": np.array(3.5, np.float32),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_protocol(kind, protocol):
    value = {"a": ARRAYS[kind], "list": [ARRAYS[kind], 1], "tuple": (ARRAYS[kind],)}
    found = read(pickle.dumps(value, protocol=protocol))
    for array in (found["a"], found["list"][0], found["tuple"][0]):
        np.testing.assert_array_equal(array, ARRAYS[kind])
        assert array.dtype == ARRAYS[kind].dtype
        assert array.shape == ARRAYS[kind].shape


def test_python2_pickles():
    value = {b"data": np.arange(300, dtype=np.uint8), b"labels": [3, 1], b"names": [b"ant", b"x" * 300]}
    found = read(python2_pickle(value))
    np.testing.assert_array_equal(found[b"data"], value[b"data"])
    assert found[b"labels"] == [3, 1]
    assert found[b"names"] == [b"ant", b"x" * 300]


def test_plain_containers():
    value = OrderedDict(a={1, 2}, b=frozenset([3]), c=bytearray(b"x"), d=[None, True, 2**80, 1.5, "é"], e=((),))
    assert read(pickle.dumps(value, protocol=2)) == value


class Malicious:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_is_refused_and_not_run(tmp_path, protocol):
    witness = tmp_path / "witness"
    for evil in (
        Malicious(os.system, f"touch {witness}"),
        Malicious(eval, f"open({str(witness)!r}, 'w')"),
        Malicious(Path.touch, witness),
        Malicious(np.save, str(witness), np.zeros(1)),
    ):
        with pytest.raises(UnsafePickleError, match=r"file\.pkl: it asks for"):
            read(pickle.dumps({"image_data": evil}, protocol=protocol))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\ngetattr\n.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"ccopyreg\n_reconstructor\n.",
        b"c__main__\nx\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x0bdict.update\x93.",
    ],
)
def test_other_names_are_refused(data):
    with pytest.raises(UnsafePickleError):
        read(data)


def test_outside_objects_are_refused():
    with pytest.raises(UnsafePickleError, match="outside object"):
        read(b"Psecret\n.")


@pytest.mark.parametrize(
    "array", [np.array([{}, 1], object), np.array(["a"]), np.zeros(2, "i4,f8"), np.zeros(1, "M8[s]")]
)
def test_arrays_of_other_than_numbers_are_refused(array):
    with pytest.raises(UnsafePickleError):
        read(pickle.dumps(array, protocol=4))


def test_other_codecs_are_refused():
    with pytest.raises(UnsafePickleError, match="codec 'rot13'"):
        read(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.")


def test_an_array_larger_than_its_bytes_is_refused():
    data = pickle.dumps(np.zeros((2, 3), np.uint8), protocol=2)
    assert data.count(b"K\x02K\x03\x86") == 1  # the shape (2, 3)
    with pytest.raises(DataError, match=r"file\.pkl: an array of shape \(200, 3\) has 6 elements"):
        read(data.replace(b"K\x02K\x03\x86", b"K\xc8K\x03\x86"))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_gives_data_errors_only(data):
    whole = pickle.dumps({"image_data": np.arange(12, dtype=np.uint8), "class_dict": {"a": [0, 1]}}, protocol=2)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(
        DataError
    ):  # damage may also leave a pickle of other plain values; nothing else may happen
        read(bytes(damaged[:cut]))
