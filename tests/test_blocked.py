"""The blocked layout of CIFAR ResNets beside torch's own operators on the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from slabench.backbones import blocked
from slabench.backbones.resnet import CifarResNet
from slabench.core.registry import BACKBONES
from slabench.losses.loss import build_loss

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")
NEEDS_BFLOAT16 = pytest.mark.skipif(
    not blocked._multiplies_bfloat16(), reason="this processor has no bfloat16 for oneDNN"
)


def network(shortcut: str) -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(16, (1, 2), 16, shortcut).train()


def images(n: int = 6) -> Tensor:
    return torch.randn((n, 3, 16, 16), generator=torch.Generator().manual_seed(1))


def backward(model: CifarResNet, features: Tensor) -> dict[str, Tensor]:
    """Gradients of a loss that is no sum: batch norm's backward of a sum is zero."""
    target = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    (features * target).sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> Callable[[CifarResNet, Tensor], Tensor]:
    """A forward pass by torch's own operators."""

    def run(model: CifarResNet, x: Tensor) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(blocked, "enter", lambda module, images: images)
            return model(x)  # type: ignore[no-any-return]

    return run


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_in_float32_it_is_torchs_own_convolution_and_batch_norm(
    shortcut: str, dense: Callable[[CifarResNet, Tensor], Tensor]
) -> None:
    ours, theirs = network(shortcut), network(shortcut)
    x, y = images().requires_grad_(), images().requires_grad_()
    assert blocked.enter(ours, x).is_mkldnn
    found, expected = ours(x), dense(theirs, y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients, reference = backward(ours, found), backward(theirs, expected)
    assert gradients.keys() == reference.keys() == dict(theirs.named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, reference[name], rtol=1e-3, atol=1e-4, msg=name)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-4)
    buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-4, atol=1e-6, msg=name)
        assert not name.endswith("running_mean") or buffer.abs().sum() > 0


@NEEDS_BFLOAT16
def test_in_bfloat16_it_is_as_near_to_float32_as_torchs_own(dense: Callable[[CifarResNet, Tensor], Tensor]) -> None:
    exact = network("A")
    reference = backward(exact, dense(exact, images(64)))
    errors = []
    for run in (lambda model, x: model(x), dense):
        model = network("A")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = run(model, images(64))
        gradients = backward(model, features.float())
        total = sum(float((gradients[name] - reference[name]).square().sum()) for name in reference)
        errors.append((total / sum(float(g.square().sum()) for g in reference.values())) ** 0.5)
    assert errors[0] != errors[1], "both went the same way"
    assert errors[0] < 1.5 * errors[1]
    assert errors[1] < 1.5 * errors[0]


@NEEDS_BFLOAT16
def test_where_it_is_used() -> None:
    model, x = network("A"), images()
    assert blocked.enter(model, x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        entered = blocked.enter(model, x)
        assert (entered.is_mkldnn, entered.dtype) == (True, torch.bfloat16)
        assert blocked.enter(copy.deepcopy(model).eval(), x) is x
        with torch.no_grad():
            assert blocked.enter(model, x) is x
    with torch.autocast("cpu", dtype=torch.float16):
        assert blocked.enter(model, x) is x
    wide = x.double()
    assert blocked.enter(model, wide) is wide
    # The result of an inner step: it is differentiated again.
    for name, weight in list(model.layers[0].conv._parameters.items()):
        if weight is not None:
            model.layers[0].conv._parameters[name] = weight * 1  # type: ignore[assignment]
    assert blocked.enter(model, x) is x
    assert torch.isfinite(model(x)).all()


@NEEDS_BFLOAT16
def test_a_second_derivative_goes_through_torchs_convolution() -> None:
    model = network("A")
    weights = {name: weight * 1 for name, weight in model.named_parameters()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = torch.func.functional_call(model, weights, (images(),))
    (first,) = torch.autograd.grad(features.float().square().sum(), weights["layers.1.conv1.weight"], create_graph=True)
    first.square().sum().backward()
    gradient = model.layers[0].conv.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@NEEDS_BFLOAT16
def test_a_network_trains_in_it_and_scores_without_it() -> None:
    """Two clusters of images are told apart after some steps, and evaluation in float32 agrees."""
    model, layer = network("A"), nn.Linear(32, 2)
    labels = torch.arange(32) % 2
    x = torch.randn((32, 3, 16, 16), generator=torch.Generator().manual_seed(3)) + 2 * labels[:, None, None, None]
    optimizer = torch.optim.SGD([*model.parameters(), *layer.parameters()], lr=0.05, momentum=0.9)
    loss = build_loss("ce", [1, 1])
    for _ in range(60):  # running statistics follow with a momentum of 0.1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = model(x)
        value = loss(layer(features.float()), labels)
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert (layer(model(x)).argmax(1) == labels).float().mean() > 0.9
    folded = copy.deepcopy(model)
    for part in folded.layers:
        part.fold()
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-3)


def test_names_of_weights_are_unchanged() -> None:
    """Checkpoints and outputs name weights; the convolutions are the same modules to them."""
    names = set(BACKBONES.get("resnet20")(32).state_dict())
    assert "layers.0.conv.weight" in names
    assert "layers.1.norm2.running_var" in names
    assert len(names) == 19 * 6
