"""The file of a classifier's outputs: it comes back as it was, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_outputs import make_outputs
from safetensors.torch import load_file, save_file

from slabench.core.errors import DataError, IntegrityError, SlabenchError
from slabench.core.files import sha256_file
from slabench.records.outputs import FeatureSplit, load_outputs, save_outputs


def test_everything_comes_back(tmp_path: Path) -> None:
    outputs = make_outputs(scale=30.0, train_shift=True)
    back = load_outputs(tmp_path / "a.safetensors", save_outputs(outputs, tmp_path / "a.safetensors"))
    for name in ("key", "objective", "m", "scale", "cosine", "train_shift", "counts", "class_names"):
        assert getattr(back, name) == getattr(outputs, name), name
    # In the order they came in, which is not the alphabet's.
    assert list(back.layers) == ["joint", "student"]
    assert list(back.splits) == ["train", "val", "test"]
    assert list(back.test_logits) == ["single", "aggregated", "distilled"]
    assert torch.equal(back.layers["joint"][0], outputs.layers["joint"][0])
    assert torch.equal(back.layers["joint"][1], outputs.layers["joint"][1])  # type: ignore[arg-type]
    assert back.layers["student"][1] is None
    for name in ("train", "val", "test"):
        features, labels = back.splits[name].features, back.splits[name].labels
        expected = outputs.splits[name].features.numpy().astype(np.float16)
        assert features.dtype == torch.float16
        np.testing.assert_array_equal(features.numpy(), expected)
        assert torch.equal(labels, outputs.splits[name].labels)
    for name, logits in outputs.test_logits.items():
        assert torch.equal(back.test_logits[name], logits)


def test_the_digest_is_that_of_the_file_and_equal_outputs_give_equal_files(tmp_path: Path) -> None:
    first, second = save_outputs(make_outputs(), tmp_path / "a"), save_outputs(make_outputs(), tmp_path / "b")
    assert first == second == sha256_file(tmp_path / "a")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b"]


def test_tensors_that_share_memory_are_stored_each(tmp_path: Path) -> None:
    shared = torch.randn(9, 3)
    outputs = make_outputs(test_logits={"single": shared, "aggregated": shared})
    back = load_outputs(tmp_path / "a", save_outputs(outputs, tmp_path / "a"))
    assert torch.equal(back.test_logits["single"], shared)
    assert torch.equal(back.test_logits["aggregated"], shared)


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    sha256 = save_outputs(make_outputs(), path)
    good = path.read_bytes()
    for place in (0, 8, 50, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(IntegrityError, match="sha256"):
            load_outputs(path, sha256)
    path.write_bytes(good)
    load_outputs(path, sha256)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused_whatever_digest_comes_with_it(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a"
    sha256 = save_outputs(make_outputs(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(IntegrityError):
        load_outputs(path, sha256)
    with pytest.raises(DataError, match="holds no outputs"):
        load_outputs(path, sha256_file(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.*No such file"):
        load_outputs(tmp_path / "gone", "0" * 64)


def test_other_safetensors_and_other_versions_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    save_outputs(make_outputs(), path)
    tensors = load_file(path)
    facts = {
        "schema": "slabench.outputs/2",
        "key": "",
        "objective": "sla+sd",
        "m": 2,
        "scale": 1.0,
        "cosine": False,
        "train_shift": False,
        "counts": [40, 20, 10],
        "class_names": ["a", "b", "c"],
        "layers": ["joint", "student"],
        "splits": ["test", "val"],
        "test_logits": ["single"],
    }
    right = {**facts, "schema": "slabench.outputs/1"}
    for metadata in (
        None,
        {"slabench": "[]"},
        {"slabench": json.dumps(facts)},
        {"slabench": json.dumps({**right, "x": 1})},
    ):
        save_file(tensors, other, metadata=metadata)
        with pytest.raises(DataError, match="holds no outputs"):
            load_outputs(other, sha256_file(other))
    without = {name: value for name, value in tensors.items() if name != "splits.val.labels"}
    save_file(without, other, metadata={"slabench": json.dumps(right)})
    with pytest.raises(DataError, match="holds no outputs"):
        load_outputs(other, sha256_file(other))
    save_file(tensors, other, metadata={"slabench": json.dumps(right)})
    assert load_outputs(other, sha256_file(other)).class_names == ("a", "b", "c")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    outputs = make_outputs()
    outputs.splits["test"].features[3, 1, 2] = value
    with pytest.raises(SlabenchError, match=r"splits\.test\.features"):
        save_outputs(outputs, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "kept"), [(65_504.0, torch.float16), (-65_520.0, torch.float32), (1e6, torch.float32)]
)
def test_features_beyond_float16_are_kept_in_float32(tmp_path: Path, value: float, kept: torch.dtype) -> None:
    """65,504 is its largest number, and 65,520 the first that it rounds to infinity; the other splits stay as they are."""
    outputs = make_outputs()
    outputs.splits["test"].features[3, 1, 2] = value
    expected = outputs.splits["test"].features.clone()
    back = load_outputs(tmp_path / "a", save_outputs(outputs, tmp_path / "a"))
    assert back.splits["test"].features.dtype == kept
    assert float(back.splits["test"].features[3, 1, 2]) == value
    torch.testing.assert_close(back.splits["test"].features.float(), expected, rtol=1e-3, atol=1e-4)
    assert back.splits["val"].features.dtype == torch.float16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m": 3}, "weight of layer 'joint'"),
        ({"layers": {}}, "need a layer"),
        ({"layers": {"joint": (torch.zeros(6, 5), torch.zeros(3))}}, "bias of layer 'joint'"),
        ({"splits": {}}, "split test"),
        ({"splits": {"test": FeatureSplit(torch.zeros(9, 2, 4), torch.zeros(9).long())}}, "features of split 'test'"),
        ({"splits": {"test": FeatureSplit(torch.zeros(9, 2, 5), torch.full((9,), 3))}}, r"labels of split 'test'"),
        ({"test_logits": {"single": torch.zeros(9, 6)}}, "test logits of 'single'"),
        ({"class_names": ("ant",)}, "1 class names"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SlabenchError, match=message):
        make_outputs(**changes)
    replace(make_outputs(), key="cd" * 32)  # what does fit is accepted
