"""The digest of a plug-in's code: equal for equal code, another for edited code, in a file, in a cell, piped in or by -c."""

from __future__ import annotations

import hashlib
import importlib
import linecache
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slabench.core.code_digest import Code, code_of
from slabench.core.registry import LOSSES, Entry
from slabench.core.source_files import Files, is_own
from slabench.plugins import load_plugin, untold

CELL = """
import math
SCALE = 2.0
class Part:
    factor = 3
    def __call__(self, z):
        return self.factor * z
def inner(z):
    return math.sqrt(2) * SCALE * z
def around(k):
    def made(logits, labels, counts, part=Part()):
        return part(inner(logits)) * k
    return made
unused = 1
loss = around(5)
"""


def typed(text: str, file: str = "<stdin>") -> Code:
    """The code of the `loss` that a program without a file defines."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), space)
    return code_of(LOSSES, Entry("own", space["loss"], "", "__main__"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = 2.0", "SCALE = 2.5"),  # a global of a function that the loss calls
        ("math.sqrt(2)", "math.sqrt(3)"),
        ("math.sqrt", "math.exp"),
        ("* SCALE", "/ SCALE"),
        ("factor = 3", "factor = 4"),  # an attribute of a default's class
        ("around(5)", "around(6)"),  # a variable from around it
        ("return part(", "return -part("),
    ],
)
def test_typed_code_is_known_by_all_that_it_uses(old: str, new: str) -> None:
    plain = typed(CELL)
    assert plain.unknown is None
    assert typed(CELL) == plain
    assert typed(CELL.replace(old, new)).sha256 != plain.sha256
    assert typed(CELL.replace("unused = 1", "unused = 2")) == plain


def test_the_source_of_a_cell_counts_where_python_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As IPython keeps cells. The text of another program under the same name is not taken for it."""
    digests = []
    for text in (
        CELL,
        CELL.replace("return part", "# now\n        return part"),
        CELL.replace("SCALE *", "2 * SCALE *"),
    ):
        file = f"<ipython-input-{len(digests)}>"
        monkeypatch.setitem(linecache.cache, file, (len(text), None, text.splitlines(keepends=True), file))
        digests.append(typed(text, file).sha256)
    assert len(set(digests)) == 3  # the text counts, its comments too
    wrong = "def made(a):\n    return a\n"
    monkeypatch.setitem(linecache.cache, "<wrong>", (len(wrong), None, wrong.splitlines(keepends=True), "<wrong>"))
    assert typed(CELL, "<wrong>") == typed(CELL)


def test_values_count_by_content() -> None:
    torch = pytest.importorskip("torch")
    text = "import torch, numpy\nw, a, s = torch.tensor({}), numpy.arange({}), {{'x', 'y', 'z'}}\n"
    text += "def loss(z, y, c):\n    return w * z + a.sum() + len(s)\n"
    one, again, other, longer = (typed(text.format(*pair)) for pair in (([1.0], 3), ([1.0], 3), ([2.0], 3), ([1.0], 4)))
    assert one == again
    assert len({one.sha256, other.sha256, longer.sha256}) == 3
    assert one.unknown is None
    assert torch.equal(torch.tensor([1.0]), torch.ones(1))


@pytest.mark.parametrize(
    "wrapped",
    [
        "@functools.lru_cache\ndef loss(z, y, c):\n    return z * 1\n",
        "@torch.no_grad()\ndef loss(z, y, c):\n    return z * 1\n",
        "def f(z, k):\n    return z * k * 1\nloss = functools.partial(f, k=2)\n",
        "class A:\n    @functools.cached_property\n    def k(self):\n        return 1\ndef loss(z, y, c):\n    return A().k\n",
        "class A:\n    @classmethod\n    def of(cls, z):\n        return z * 1\nloss = A.of\n",
        "@dataclasses.dataclass\nclass A:\n    k: int = 1\n    def f(self, z, y, c):\n        return z\nloss = A().f\n",
        "A = type('A', (torch.nn.Linear,), {})\ntorch.manual_seed(0)\na = A(2, 1)\ndef loss(z, y, c):\n    return a(z)\n",
    ],
)
def test_a_wrapper_of_a_library_does_not_hide_the_code(wrapped: str) -> None:
    text = "import dataclasses, functools, torch\n" + wrapped
    found, edited = typed(text), typed(text.replace("1\n", "3\n").replace("1)", "3)"))
    assert found.unknown is None
    assert typed(text) == found
    assert edited.sha256 != found.sha256


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "g = (x for x in [1])\ndef loss(z, y, c):\n    return next(g)\n",
            "'g', which 'loss' uses, is a builtins.generator",
        ),
        ("import importlib\ndef loss(z, y, c):\n    return importlib.import_module(z)\n", "import_module"),
        ("def loss(z, y, c):\n    exec(z)\n", r"\(exec\)"),
    ],
)
def test_what_cannot_be_known_is_said(text: str, why: str) -> None:
    import re

    found = typed(text)
    assert found.unknown is not None
    assert re.search(why, found.unknown)
    plugin = {"kind": "loss", "name": "own", "origin": "__main__", "sha256": found.sha256, "unknown": found.unknown}
    assert untold([plugin]) == f"the code of the loss 'own' cannot be told from another: {found.unknown}"


MAIN = """
import slabench
from helper import SCALE
def loss(z, y, c):
    from pack import inner
    return inner.apply(z) * SCALE
slabench.LOSSES.add("{name}", loss, "own")
"""


def project(folder: Path) -> Path:
    """A plug-in file that imports a module and a package beside it, which import others."""
    (folder / "pack").mkdir(parents=True)
    files = {
        "own.py": MAIN,
        "helper.py": "import math\nfrom deeper import SCALE\n",
        "deeper.py": "SCALE = 1\n",
        "unrelated.py": "x = 1\n",
        "pack/__init__.py": "",
        "pack/inner.py": "from .most import f\ndef apply(z):\n    return f(z)\n",
        "pack/most.py": "def f(z):\n    return z\n",
        "pack/unrelated.py": "x = 1\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def reached(folder: Path) -> Files:
    """From files alone: nothing is imported."""
    files = Files()
    files.add_main(str(folder / "own.py"))
    return files


def test_a_file_counts_with_the_modules_beside_it_that_it_imports(tmp_path: Path) -> None:
    first = reached(project(tmp_path / "first"))
    assert sorted(first.found) == ["", "deeper", "helper", "pack", "pack.inner", "pack.most"]
    assert first.unknown == []
    # Content, not location.
    assert reached(Path(shutil.copytree(tmp_path / "first", tmp_path / "second"))).digest() == first.digest()
    for number, name in enumerate(["helper.py", "deeper.py", "pack/inner.py", "pack/most.py", "unrelated.py"]):
        folder = Path(shutil.copytree(tmp_path / "first", tmp_path / str(number)))
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write("# edited\n")
        assert (reached(folder).digest() == first.digest()) == (name == "unrelated.py"), name


def test_installed_modules_are_no_part_of_it() -> None:
    assert not is_own(str(Path(importlib.import_module("pydantic").__file__ or "")))
    assert not is_own(str(Path(hashlib.__file__)))
    assert not is_own(str(Path(sys.modules["slabench"].__file__ or "")))
    assert is_own(__file__)


@pytest.mark.usefixtures("registries")
def test_a_loaded_helper_counts_as_it_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process runs what it read, whatever an editor writes meanwhile; a reload reads again."""
    folder = project(tmp_path / "first")
    (folder / "helper.py").rename(folder / "slabench_beside.py")
    (folder / "deeper.py").rename(folder / "slabench_deeper.py")
    texts = {
        "slabench_beside.py": "from slabench_deeper import SCALE\n",
        "own.py": MAIN.replace("helper", "slabench_beside"),
    }
    for name, text in texts.items():
        (folder / name).write_text(text.replace("{name}", "beside"), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    load_plugin(folder / "own.py")
    try:
        before = code_of(LOSSES, LOSSES.entry("beside"))
        (folder / "slabench_deeper.py").write_text("SCALE = 2  # edited\n", encoding="utf-8")
        assert code_of(LOSSES, LOSSES.entry("beside")) == before
        importlib.reload(sys.modules["slabench_deeper"])
        assert code_of(LOSSES, LOSSES.entry("beside")) != before
    finally:
        for name in ("slabench_beside", "slabench_deeper"):
            sys.modules.pop(name, None)


@pytest.mark.usefixtures("registries")
def test_a_file_alone_is_known_by_its_bytes(tmp_path: Path) -> None:
    """So are all that came before: their keys stay."""
    path = tmp_path / "own.py"
    path.write_text(
        "import slabench\nslabench.LOSSES.add('alone', lambda z, y, c: z.sum(1), 'own')\n", encoding="utf-8"
    )
    load_plugin(path)
    found = code_of(LOSSES, LOSSES.entry("alone"))
    assert found == Code(hashlib.sha256(path.read_bytes()).hexdigest())


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import slabench
from slabench.core.code_digest import code_of
import helper
factor = {factor}
@slabench.LOSSES.register("mine")
def loss(z, y, c):
    return helper.SCALE * factor * z
print(code_of(slabench.LOSSES, slabench.LOSSES.entry("mine")))
"""


@pytest.mark.slow
def test_the_same_program_is_the_same_by_c_and_piped_in(tmp_path: Path) -> None:
    folder = project(tmp_path / "first")

    def run(text: str, how: Callable[[str], tuple[list[str], str | None]]) -> str:
        words, given = how(text)
        command = [sys.executable, *words]
        return subprocess.run(command, input=given, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    by_c: Callable[[str], tuple[list[str], str | None]] = lambda text: (["-c", text], None)  # noqa: E731
    piped: Callable[[str], tuple[list[str], str | None]] = lambda text: (["-"], text)  # noqa: E731
    text = SCRIPT.format(folder=str(folder), factor=1)
    first = run(text, by_c)
    assert "unknown=None" in first
    assert run(text, piped) == first
    assert run(SCRIPT.format(folder=str(folder), factor=2), piped) != first
    (folder / "deeper.py").write_text("SCALE = 3\n", encoding="utf-8")
    assert run(text, by_c) != first
