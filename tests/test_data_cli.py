"""`slabench data ...`, `list datasets`, `show dataset`: what is printed, the exit code, what is not imported."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

import slabench.data
from slabench.cli.data import app, list_datasets, show_dataset
from slabench.core import paths
from slabench.core.errors import DataMissingError, UsageError

runner = CliRunner()


def screen(call, *arguments) -> str:
    file = io.StringIO()
    call(Console(file=file, width=200), *arguments)
    return file.getvalue()


def test_get_verify_and_a_flipped_byte():
    result = runner.invoke(app, ["get", "digits"])
    assert result.exit_code == 0
    assert "1,797 images of 10 classes" in result.output
    assert "already prepared" in runner.invoke(app, ["get", "digits"]).output
    assert runner.invoke(app, ["verify"]).output.strip() == "digits: whole"

    file = paths.data() / "digits" / "images.npy"
    data = bytearray(file.read_bytes())
    data[100_000] ^= 4
    file.write_bytes(bytes(data))
    result = runner.invoke(app, ["verify", "digits"])
    assert result.exit_code == 1
    assert "damaged" in result.output
    assert "images.npy" in result.output
    assert "slabench data get digits --replace" in result.output

    assert runner.invoke(app, ["get", "digits", "--replace"]).exit_code == 0
    assert runner.invoke(app, ["verify", "digits"]).exit_code == 0


def test_verify_names_a_missing_file():
    slabench.data.ensure("digits")
    (paths.data() / "digits" / "parts.npy").unlink()
    result = runner.invoke(app, ["verify"])
    assert result.exit_code == 1
    assert "parts.npy is missing" in result.output


def test_verify_of_nothing():
    assert "nothing is prepared" in runner.invoke(app, ["verify"]).output
    error = runner.invoke(app, ["verify", "cifar100"]).exception
    assert isinstance(error, DataMissingError)
    assert error.remedy == "slabench data get cifar100"
    error = runner.invoke(app, ["verify", "mit67"]).exception
    assert isinstance(error, DataMissingError)
    assert error.remedy == "slabench data import mit67 PATH"
    assert isinstance(runner.invoke(app, ["verify", "cifar1000"]).exception, UsageError)


def test_import_of_a_wrong_path(tmp_path):
    error = runner.invoke(app, ["import", "cifar100", str(tmp_path / "nowhere")]).exception
    assert isinstance(error, UsageError)
    assert "does not exist" in error.message


def test_get_of_what_has_no_download_tells_where_to_get_it():
    error = runner.invoke(app, ["get", "cub200"]).exception
    assert isinstance(error, DataMissingError)
    assert "there is no download for cub200" in error.message
    assert "https://www.vision.caltech.edu/datasets/cub_200_2011/" in error.remedy
    assert "slabench data import cub200 PATH" in error.remedy


def test_list_tells_what_is_here():
    slabench.data.ensure("digits")
    rows = {row["name"]: row for row in json.loads(screen(list_datasets, True))}
    assert rows["digits"]["state"] == "prepared"
    assert rows["fc100"]["state"] == "not here"
    assert rows["glyphs"]["state"] == "drawn on first use"
    assert rows["fc100"]["splits"] == ["train", "val", "test"]
    for name, classes, size in (("tiny-imagenet", 200, 64), ("cub200", 200, 256), ("mit67", 67, 256)):
        assert rows[name]["splits"] == ["train", "test", "all"]
        assert (rows[name]["n_classes"], rows[name]["image_size"]) == (classes, size)
    text = screen(list_datasets, False)
    assert all(name in text for name in rows)


def test_show_tells_classes_source_licence_and_digests():
    text = screen(show_dataset, "fc100")
    for fact in ("36,000 images of 60 classes", "12,000 images of 20 classes", "aquarium_fish", "kriz", "licence"):
        assert fact in text
    assert slabench.data.catalog.info("fc100").digest in text
    assert "33ac05588ad21e8462b82b09b3721db2f102750d8cb2ec0b116b77da6de28b23" in text
    slabench.data.ensure("digits")
    assert "1,797 of them" in screen(show_dataset, "digits")
    text = screen(show_dataset, "stanford-dogs")
    for fact in (
        "256 x 256",
        "20,580 of them",
        "RandomResizedCrop(224) within",
        "lists/train_list.mat",
        "ImageNetDogs",
    ):
        assert fact in text
    with pytest.raises(UsageError, match="did you mean"):
        show_dataset(Console(file=io.StringIO()), "fc-100")


@pytest.mark.slow
def test_nothing_heavy_is_imported():
    code = (
        "import sys, slabench.cli.data, slabench.data.catalog, slabench.data.splits;"
        "print([name for name in ('numpy', 'torch', 'PIL', 'pyarrow', 'sklearn', 'pydantic') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
