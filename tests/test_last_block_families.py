"""Where the last block of a network begins: the families of timm, with random weights, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from doc_pages import ROOT
from own_maps import Tail, few_shot, own_network, ran
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from slabench.cli.app import app
from slabench.core.errors import UsageError
from slabench.embedders import networks, open_features
from slabench.embedders.inputs import open_inputs
from slabench.embedders.last_block import FAMILIES, Cut, check_cut
from slabench.embedders.networks import open_network
from slabench.learners.adapter import adapted, build_adapter


def test_the_page_on_adapters_tells_every_family() -> None:
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    assert all(f"| {kind} |" in page for kind in FAMILIES)


def test_networks_of_which_no_last_block_is_known_are_refused() -> None:
    net = own_network()
    with pytest.raises(UsageError, match=r"last block of own:net \(Own\) begins is not known"):
        check_cut(net.name, net.module, None, 16)
    with pytest.raises(UsageError, match="do not follow from the maps before stem"):
        check_cut(net.name, net.module, Cut("stem", net.module.tail, nn.Sequential(Tail().eval())), 16)  # type: ignore[arg-type]


CUT = [
    ("test_efficientnet", "conv_head, bn2"),
    ("test_resnet", "layer4"),
    ("test_convnext", "stages.3, norm_pre"),
    ("test_vit", "norm"),
    ("mobilenetv3_small_050", "blocks.5"),
    ("regnetx_002", "s4, final_conv"),
]


@pytest.mark.parametrize(("model", "block"), CUT)
def test_families_of_timm_with_random_weights(tmp_path: Path, model: str, block: str) -> None:
    timm = pytest.importorskip("timm", reason="needs timm: pip install slabench[timm]")
    torch.manual_seed(0)
    whole = timm.create_model(model, pretrained=False)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    net = open_network(f"timm:{model}", tmp_path / "w.safetensors", None)
    assert net.cut is not None
    assert net.cut.block.endswith(block)
    check_cut(net.name, net.module, net.cut, net.size)  # maps, block and pooling are the whole network
    state = networks.open_tail(f"timm:{model}").state_dict()
    kept = net.cut.tail.state_dict()
    assert {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in kept.items()}
    assert sum(v.numel() for v in kept.values()) < sum(v.numel() for v in net.module.state_dict().values())


def test_a_family_of_timm_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="needs timm: pip install slabench[timm]")
    save_file(timm.create_model("test_nfnet", pretrained=False).state_dict(), tmp_path / "w.safetensors")
    net = open_network("timm:test_nfnet", tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"timm:test_nfnet \(NormFreeNet\)"):
        check_cut(net.name, net.module, net.cut, net.size)
    for gone in ("test_nfnet", "of_another_version"):
        with pytest.raises(UsageError, match=f"the last block of timm:{gone} cannot be made here"):
            networks.open_tail(f"timm:{gone}")


def test_from_images_to_a_trained_block_on_the_command_line(glyphs: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="needs timm: pip install slabench[timm]")
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet", pretrained=False).state_dict(), tmp_path / "w.safetensors")
    run = CliRunner()
    words = ["embed", "--model", "timm:test_efficientnet", "--weights", str(tmp_path / "w.safetensors")]
    made = run.invoke(
        app,
        [
            *words,
            "--dataset",
            "glyphs",
            "--size",
            "32",
            "--views",
            "rotation",
            "--name",
            "t",
            "--maps",
            "--batch",
            "250",
        ],
    )
    assert made.exit_code == 0, made.output
    assert "maps before blocks" in made.output
    frozen = open_features("t", "glyphs", "test")
    inputs = open_inputs("t", "glyphs", "test", "last-block")
    block = build_adapter("last-block", 0, frozen.D, 0, inputs.maps)
    found = adapted(block, torch.from_numpy(inputs.values(np.arange(20))))
    torch.testing.assert_close(found, torch.from_numpy(frozen.features(range(20))).float(), rtol=1e-2, atol=1e-2)
    record = ran(few_shot(model__embedder="t", sla__objective="sla"), tmp_path)
    assert record.status == "done"
