"""Fixtures for small data. No test reads or writes the user's own cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from data_layouts import Part, tiny_parts


@pytest.fixture(autouse=True)
def _own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLABENCH_DATA", str(tmp_path / "slabench-data"))


@pytest.fixture
def parts() -> tuple[Part, Part]:
    """Training and test images of the small data set of `data_layouts`, in their original order."""
    return tiny_parts()


@pytest.fixture(scope="session")
def cifar100_parquet() -> Path:
    """The folder of the real CIFAR-100's parquet files; the test is skipped where there is none."""
    named = os.environ.get("SLABENCH_CIFAR100")
    if not named:
        pytest.skip("needs the real CIFAR-100: set SLABENCH_CIFAR100 to its folder of parquet files")
    return Path(named)
