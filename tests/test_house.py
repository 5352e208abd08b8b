"""The drawing of the house in docs/architecture.md, and the layering contracts that it is made from."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIGURE = (ROOT / "docs" / "assets" / "house.svg").read_text(encoding="utf-8")

pytest.importorskip("grimp")


@pytest.fixture(scope="module")
def house():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import draw_house

        return draw_house.house()
    finally:
        sys.path.pop(0)


def test_the_drawing_has_the_rooms_and_arrows_of_the_code(house):
    remedy = "python scripts/draw_house.py"
    assert set(re.findall(r'data-room="(\w+)"', FIGURE)) == {room for floor in house.floors for room in floor}, remedy
    assert set(re.findall(r'data-arrow="(\w+) (\w+)"', FIGURE)) == set(house.arrows), remedy


def test_every_room_of_the_package_stands_on_a_floor(house):
    package = ROOT / "slabench"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    rooms |= {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    assert {room for floor in house.floors for room in floor} == rooms


def test_the_walks_and_tables_of_the_page_name_files_that_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    first = page[: page.index("## Decisions")]
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_0-9]+\.py)?)`", first)
    assert len(named) > 20
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "slabench" / name).exists()]
    assert not missing


def test_an_import_upwards_breaks_a_contract(tmp_path):
    """The contracts refuse what they are there for: a copy of the package with one import from a head to the records."""
    import shutil

    shutil.copytree(ROOT / "slabench", tmp_path / "slabench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    head = tmp_path / "slabench" / "heads" / "metaoptnet.py"
    head.write_text(head.read_text() + "\nfrom slabench.records.record import RunRecord  # noqa\n")
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "slabench.heads.metaoptnet -> slabench.records.record" in done.stdout
