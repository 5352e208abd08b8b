"""Fixtures for small data. No test reads or writes the user's own cache."""

from __future__ import annotations

import json
import os

# The networks here are tiny: a second thread would cost more than it does, and starve on a machine that is busy. Before
# torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import narrow
import pytest
from data_layouts import Part, tiny_parts
from feature_sets import pooled, write_set
from filelock import FileLock

from slabench.core.paths import data as data_folder
from slabench.data.catalog import info
from slabench.data.loading import ensure
from slabench.data.sources.detect import import_dataset
from slabench.embedders import EmbedderFacts

# Most of the suite's time, in the order in which the files are started: the last minute of `make test` is not to be one
# long file alone. They train, or start processes, and `make test-fast` leaves them out...
LONGEST_FIRST = (
    *(
        "test_executor_slurm",  # waits for most of its time
        "test_docs_commands",
        "test_several_devices",  # waits, too
        "test_reproduction_run",
        "test_fake_cuda",
        "test_several_processes",
        "test_resume",
        "test_attack",
    ),
    *(
        "test_fewshot_suite",
        "test_score_heads",
        "test_docs",
        "test_packaging",
        "test_conformance_networks",
        "test_classification_cli",
    ),
    *("test_maml_runs", "test_report_browser", "test_cli", "test_data_loading", "test_classification_suite"),
    *("test_estimate", "test_maml", "test_api", "test_report", "test_results_page", "test_backbones"),
    *("test_conformance", "test_svm_head", "test_posthoc_cli", "test_posthoc_training", "test_reproduction_tables"),
    *(
        "test_data_learn2learn",
        "test_glyphs",
        "test_compare_cli",
        "test_learn2learn",
        "test_training",
        "test_not_finite",
    ),
    *("test_transductive", "test_evaluation", "test_identity", "test_parity", "test_scoring_parity"),
    *("test_cosine_heads", "test_examples", "test_plugins", "test_doctor", "test_hostile_files", "test_own_runs"),
    *("test_executor_ray", "test_adapters"),
)
# ... but for these, whose slow tests are marked one by one.
PARTLY_FAST = ("test_docs", "test_api", "test_several_processes", "test_several_devices")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    for item in items:
        if item.path.stem in places and item.path.stem not in PARTLY_FAST:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A command that ran in this process with `--threads 2` leaves no second thread to the tests after it."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLABENCH_DATA", str(tmp_path / "slabench-data"))


@pytest.fixture(autouse=True)
def _own_index(_common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the shipped records is shared: a dozen files read them again and again."""
    monkeypatch.setenv("SLABENCH_INDEX", str(_common / "index"))


@pytest.fixture(scope="session")
def _common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers of this run."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


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


@pytest.fixture(scope="session")
def made_once(_common: Path) -> Callable[[str, Callable[[Path], object]], Path]:
    """`made_once(name, make)` is a folder that `make` filled: once a run, however many workers ask for it."""
    root = _common

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place, done = root / f"shared-{name}", root / f"shared-{name}.done"
        with FileLock(f"{place}.lock"):
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                make(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def _drawn_glyphs(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The embedded glyphs, drawn once for all tests."""
    return made_once("glyphs", lambda folder: ensure("glyphs", folder))


@pytest.fixture
def glyphs(_own_data_folder: None, _drawn_glyphs: Path) -> Path:
    """The test's own data folder, with the glyphs in it."""
    folder = data_folder()
    shutil.copytree(_drawn_glyphs, folder)
    return folder


@pytest.fixture(scope="session")
def _pooled_glyphs(made_once: Callable[[str, Callable[[Path], object]], Path], _drawn_glyphs: Path) -> Path:
    """Glyphs with the feature set `pool` of all of their images, made once for all tests."""

    def make(folder: Path) -> None:
        shutil.copytree(_drawn_glyphs, folder, dirs_exist_ok=True)
        write_set("pool", "glyphs", pooled, EmbedderFacts(embedder="pooled"), transforms="rotation", folder=folder)

    return made_once("pooled-glyphs", make)


@pytest.fixture
def pool(_own_data_folder: None, _pooled_glyphs: Path) -> Path:
    """The test's own data folder, with the glyphs and their features `pool` in it."""
    folder = data_folder()
    shutil.copytree(_pooled_glyphs, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def narrow_conv4() -> Iterator[None]:
    with narrow.narrow_conv4():
        yield


@pytest.fixture
def narrow_resnets() -> Iterator[None]:
    with narrow.narrow_resnets():
        yield


@pytest.fixture(scope="session")
def _imported_cifar100(cifar100_parquet: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A data folder with the real CIFAR-100, imported once for all tests; beside it, what the import said, and its seconds."""

    def make(folder: Path) -> None:
        start = time.perf_counter()
        _, notes = import_dataset(info("cifar100"), cifar100_parquet, folder / "data")
        told = {"notes": notes, "seconds": time.perf_counter() - start}
        (folder / "import.json").write_text(json.dumps(told), encoding="utf-8")

    return made_once("cifar100", make) / "data"


@pytest.fixture
def cifar100(_own_data_folder: None, _imported_cifar100: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder with the real CIFAR-100 in it, shared by the tests that ask for it: they only read."""
    monkeypatch.setenv("SLABENCH_DATA", str(_imported_cifar100))
    return _imported_cifar100


@pytest.fixture
def registries() -> Iterator[None]:
    """What a test registers, or loads as a plug-in, is taken back after it."""
    from slabench import plugins
    from slabench.core.registry import REGISTRIES

    before = {name: (kind.names(), dict(kind._entries), dict(kind.problems)) for name, kind in REGISTRIES.items()}
    files = dict(plugins._loaded)
    yield
    for name, kind in REGISTRIES.items():
        kind._entries, kind.problems = before[name][1], before[name][2]
    plugins._loaded.clear()
    plugins._loaded.update(files)
