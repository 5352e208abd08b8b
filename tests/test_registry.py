"""One registry: lazy, kebab-case, no silent replacement, plug-ins by entry point."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from slabench.core import registry
from slabench.core.errors import UsageError
from slabench.core.registry import BACKBONES, HEADS, Registry


def test_built_in_names_resolve() -> None:
    for kind in (HEADS, BACKBONES):
        assert kind.names()
        for entry in kind:
            assert kind.get(entry.name) is not None
            assert entry.summary


def test_names_are_kebab_case_and_never_replaced() -> None:
    own = Registry("head", "none")
    own.add("my-head", "a:b", "x", origin="me")
    with pytest.raises(UsageError, match="'My_Head' is not kebab-case"):
        own.add("My_Head", "a:b", "x")
    with pytest.raises(UsageError, match="'my-head' of you is already registered by me"):
        own.add("my-head", "c:d", "x", origin="you")
    assert own.entry("my-head").target == "a:b"


def test_the_decorator_takes_the_first_line_of_the_docstring() -> None:
    own = Registry("head", "none")

    @own.register("mine")
    def mine() -> None:
        """What it is.

        More.
        """

    assert own.get("mine") is mine
    assert own.entry("mine").summary == "What it is."
    assert "mine" in own


def test_unknown_names_suggest() -> None:
    with pytest.raises(UsageError, match="unknown backbone 'resnet-12'\ndid you mean 'resnet12'"):
        BACKBONES.get("resnet-12")
    assert "resnet-12" not in BACKBONES


def test_packages_bring_their_own_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("square", "math:sqrt", "slabench.test")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "slabench.test" else [])
    own = Registry("head", "slabench.test")
    assert own.names() == ["square"]
    assert own.get("square")(9) == 3


@pytest.mark.slow
def test_listing_names_imports_no_torch() -> None:
    code = (
        "import sys; from slabench.core.registry import BACKBONES; BACKBONES.names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
