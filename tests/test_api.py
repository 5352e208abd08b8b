"""The Python API: lazy, documented by examples that run, and SLA's three calls against their definition."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import slabench
from slabench.core.errors import UsageError
from slabench.recipes import load_recipe
from slabench.recipes.base import checked_seeds

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_importing_slabench_and_its_registries_imports_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys, slabench
dir(slabench)
for registry in (slabench.HEADS, slabench.BACKBONES, slabench.LOSSES, slabench.TRANSFORMS, slabench.DATASETS):
    assert registry.names()
slabench.Head, slabench.load_plugin, slabench.dataset, slabench.function_set
print([name for name in ("torch", "numpy", "pandas", "sklearn", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_every_public_name_resolves_and_is_documented() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in slabench.__all__:
        assert getattr(slabench, name) is not None
        if name not in ("__version__", "Recipe"):
            assert f"`{name}" in page, name
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        slabench.runn  # noqa: B018


def test_the_example_of_a_training_loop_learns(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(blocks("api.md")[0], {})
    output = capsys.readouterr().out
    accuracy = dict(re.findall(r"(aggregated|single) ([\d.]+)", output))
    assert float(accuracy["aggregated"]) == 1
    assert float(accuracy["single"]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_conv4")
def test_the_example_of_running_runs(
    glyphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(blocks("api.md")[1], {})
    output = capsys.readouterr().out
    assert "missing" in output
    assert "ran [('single'" in output
    assert len(re.findall(r"fewshot/glyphs/5w5s15q fewshot/quick (single|aggregated)", output)) == 2


@pytest.mark.usefixtures("registries")
@pytest.mark.slow
def test_the_example_of_a_plugin_conforms(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(blocks("plugins.md")[0], encoding="utf-8")
    assert slabench.load_plugin(path).names == (("head", "inner-product"),)
    findings = slabench.check("heads", "inner-product")
    assert [f for f in findings if f.state == "wrong"] == []


def test_sla_is_what_the_paper_says() -> None:
    sla = slabench.SLA("rotation", n_classes=3)
    assert (sla.M, sla.n_outputs) == (4, 12)
    images = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    x, y = sla.augment(images, torch.tensor([2, 0]))
    assert y.tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    for b in range(2):
        for j in range(4):
            assert torch.equal(x[4 * b + j], images[b].rot90(j, (1, 2)))
    assert torch.equal(sla.views(images), x)
    logits = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    # Equation 3: the mean over images and transformations of the cross-entropy with the joint label.
    expected = sum(-logits[r].log_softmax(0)[y[r]] for r in range(8)) / 8
    assert torch.isclose(sla.loss(logits, y), torch.as_tensor(expected))
    # Equation 4: softmax over i of the mean over j of the logit of (i, j) for the copy j.
    sums = torch.tensor([[sum(logits[4 * b + j, 4 * i + j] for j in range(4)) / 4 for i in range(3)] for b in range(2)])
    assert torch.allclose(sla.aggregate(logits), sums.softmax(1))
    plain = torch.tensor([[logits[4 * b, 4 * i] for i in range(3)] for b in range(2)])
    assert torch.allclose(sla.single(logits[::4]), plain.softmax(1))
    assert torch.allclose(sla.single_of_views(logits), plain.softmax(1))


def test_sum_over_transformations_is_m_times_the_mean() -> None:
    logits, y = torch.randn(8, 12, generator=torch.Generator().manual_seed(2)), torch.arange(8)
    mean, total = (slabench.SLA("rotation", 3, reduction=reduction).loss(logits, y) for reduction in ("mean", "sum"))
    assert torch.isclose(total, 4 * mean)


def test_a_loss_by_counts_takes_those_of_the_classes() -> None:
    sla = slabench.SLA("rotation2", 2, loss="balanced-softmax", counts=[9, 1])
    logits, y = torch.zeros(2, 4), torch.tensor([2, 3])
    # Ren et al., eq. 3, over joint classes with counts 9, 9, 1, 1: p = 1/20.
    assert torch.isclose(sla.loss(logits, y), torch.tensor(20.0).log())


def test_a_training_step_reaches_the_model() -> None:
    sla = slabench.SLA("rotation", 2)
    model = torch.nn.Linear(3 * 4 * 4, sla.n_outputs)
    x, y = sla.augment(torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 1]))
    sla.loss(model(x.flatten(1)), y).backward()
    assert model.weight.grad is not None
    reference = functional.cross_entropy(model(x.flatten(1)), y)
    assert torch.allclose(torch.autograd.grad(reference, model.weight)[0], model.weight.grad, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slabench.SLA("rotations", 3), "did you mean 'rotation'"),
        (lambda: slabench.SLA("rotation", 1), "at least two classes"),
        (lambda: slabench.SLA("rotation", 3, counts=[1, 2]), "2 counts for 3 classes"),
        (lambda: slabench.SLA("rotation", 3, reduction="max"), "'max' over transformations is unknown"),
        (lambda: slabench.SLA("rotation", 3, loss="cee"), "did you mean 'ce'"),
        (lambda: slabench.SLA("rotation", 3).aggregate(torch.zeros(4, 3)), r"need logits \[rows, 12\], got \[4, 3\]"),
        (lambda: slabench.SLA("rotation", 3).loss(torch.zeros(6, 12), torch.zeros(6)), "6 rows are not a multiple"),
        (lambda: slabench.SLA("rotation", 3).augment(torch.zeros(2, 3, 4, 4), torch.tensor([0, 3])), "from 0 to 3"),
        (
            lambda: slabench.SLA("rotation", 3).augment(torch.zeros(2, 3, 4, 4), torch.tensor([0.0, 1.0])),
            "int64 labels",
        ),
        (lambda: slabench.SLA("rotation", 3).views(torch.zeros(2, 3, 4, 5)), "is not square"),
    ],
)
def test_misuse_is_explained(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]


def test_an_empty_folder_has_an_empty_leaderboard(tmp_path: Path) -> None:
    assert slabench.leaderboard(tmp_path) == []


def test_seeds_may_be_numpy_s() -> None:
    for given, expected in ((np.arange(2), [0, 1]), ([np.int64(3)], [3]), ((5,), [5]), (range(2), [0, 1])):
        found = checked_seeds(given)
        assert list(found) == expected
        assert {type(seed) for seed in found} == {int}
        assert load_recipe("fewshot/quick", {"seeds": given})[0].seeds == found


@pytest.mark.parametrize(
    "given", [[1.0], [True], [-1], [np.True_], [np.float64(2)], [0, "1"], [None], np.array([0.5]), "01", 3]
)
def test_what_is_no_seed_is_named(given: object) -> None:
    wrong = given if isinstance(given, str | int) else list(given)[-1]  # type: ignore[call-overload]
    recipe = load_recipe("fewshot/quick", {"data.dataset": "glyphs"})
    for call in (
        lambda: slabench.plan(recipe, given),  # type: ignore[arg-type]
        lambda: slabench.run(recipe, given),  # type: ignore[arg-type]
        lambda: slabench.plan_table("sla2020/few-shot", seeds=given),  # type: ignore[arg-type]
        lambda: load_recipe("fewshot/quick", {"seeds": given}),
    ):
        with pytest.raises(UsageError) as refused:
            call()
        assert repr(wrong) in refused.value.message
        assert "whole numbers from 0 on" in (refused.value.remedy or "")


def test_a_damaged_record_is_named_in_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "fewshot" / "x" / "y"
    folder.mkdir(parents=True)
    (folder / "seed0-abc.json").write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"seed0-abc\.json"):
        assert slabench.leaderboard(tmp_path) == []


def test_the_shipped_records_have_rows() -> None:
    rows = slabench.leaderboard(shipped=True)
    assert rows
    assert all(row.rank is None or row.rank >= 1 for row in rows)


@pytest.mark.slow
def test_the_package_tells_type_checkers_that_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's own check sees the installed package, which counts as typed for its marker `py.typed` alone.

    Of what is imported here it reads `slabench.sla`; all of slabench, and of torch, is checked by `make lint`.
    """
    mypy = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(
        "import slabench\nimport torch\nsla = slabench.SLA('rotation', 3)\n"
        "x, y = sla.augment(torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.int64))\n"
        "wrong: int = sla.loss(x, y)\n",
        encoding="utf-8",
    )
    (tmp_path / "torch.pyi").write_text(
        "class Tensor: ...\nclass dtype: ...\nint64: dtype\ndef zeros(*size: int, dtype: dtype = ...) -> Tensor: ...\n",
        encoding="utf-8",
    )
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = skip\n[mypy-slabench,slabench.sla.*,torch]\nfollow_imports = normal\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    report, _, code = mypy.run(["--config-file=mypy.ini", f"--cache-dir={tmp_path / 'cache'}", "user.py"])
    assert code == 1
    assert 'expression has type "Tensor", variable has type "int"' in report
    assert report.count("error:") == 1
