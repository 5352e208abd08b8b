"""Post-hoc methods for uneven classes: what can be gained from a trained classifier without training its backbone again.

| method | test logits | source |
|---|---|---|
| logit-adjust | z - tau log p, p the training prior | Menon et al., ICLR 2021, eq. 9 |
| tau-norm | W_i / ||W_i||^tau, the bias dropped | Kang et al., ICLR 2020, eq. 4 |
| crt | a new layer, trained on balanced classes and fixed features | Kang et al., ICLR 2020, section 4.1 |
| lws | f_i z_i, the scales f trained on balanced classes | Kang et al., ICLR 2020, eq. 5 |
| temperature | z / T | Guo et al., ICML 2017, section 4.2 |

Each gives logits for every predictor that the model has, as softmax takes them: the scale s of a cosine layer is in them.
With SLA's joint classes (i, j) a prior is p_i / M, whose constant cancels, so that the adjustment is made once, on the
aggregated logits; norms are those of the N*M joint rows; LWS has one scale for each class, shared by its M joint ones.

A hyper-parameter is chosen on the validation images (training images that a long tail left out), never on the test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.evaluation.calibration import MAX_TEMPERATURE, fit_temperature
from slabench.evaluation.metrics import balanced_accuracy
from slabench.records.outputs import Layer, ModelOutputs, Split

METHODS: dict[str, str] = {
    "logit-adjust": "training priors taken from the logits (Menon et al. 2021)",
    "tau-norm": "class vectors divided by a power of their norm (Kang et al. 2020)",
    "crt": "the last layer trained anew on balanced classes (Kang et al. 2020)",
    "lws": "one learned scale for each class (Kang et al. 2020)",
    "temperature": "one temperature for all logits: calibration alone (Guo et al. 2017)",
}


PLAIN = "none"
"""The name of the model as it was trained, the row that every method is read beside."""


TAUS = tuple(round(0.1 * step, 1) for step in range(21))
"""Candidates for the tau of tau-normalisation: 0, 0.1, .. 2."""


@dataclass(frozen=True, eq=False)
class Adjusted:
    """What a method makes of the test logits.

    Attributes:
        method: one of `METHODS`, or `PLAIN`.
        logits: by predictor, float32 `[n, C]`; softmax of them are the probabilities.
        parameter: the name of its hyper-parameter; None where it has none.
        values: that parameter by predictor.
        how: how the parameter was chosen, or what was trained.
        seconds: what it took, where `apply` measured it.
    """

    method: str
    logits: Mapping[str, Tensor]
    parameter: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    how: str = ""
    seconds: float = 0.0


def logits(outputs: ModelOutputs, split: str, layers: Mapping[str, Layer] | None = None) -> dict[str, Tensor]:
    """Logits of every predictor, from features and layers: float32 `[n, C]`, not scaled (a cosine layer's are cosines).

    On the test they are `outputs.test_logits` up to the rounding of features to float16.

    Args:
        outputs: the model.
        split: `train`, `val` or `test`.
        layers: in place of the model's own.

    Raises:
        UsageError: a split that was not kept.
    """
    return from_views(class_views(outputs, need(outputs, split, "these logits").features, layers))


def class_views(
    outputs: ModelOutputs, features: Tensor, layers: Mapping[str, Layer] | None = None
) -> dict[str, Tensor]:
    """The logit of each class under each transformation that was applied.

    Args:
        outputs: says which layer is read how.
        features: float `[n, M, D]`.
        layers: in place of the model's own.

    Returns:
        By layer. `joint`: `[n, M, C]`, entry (j, i) is the joint logit (i, j) of copy j; the N*M logits of other labels are never
        made. `classes`: `[n, M, C]`. `student`: `[n, 1, C]`, of the plain image.
    """
    found: dict[str, Tensor] = {}
    layers = outputs.layers if layers is None else layers
    for name, (weight, bias) in layers.items():
        if name == "transforms":
            continue
        own = features[:, :1] if name == "student" else features
        x, w = own.float(), weight.float()
        if outputs.cosine:
            x, w = functional.normalize(x, dim=-1), functional.normalize(w, dim=-1)
        if name != "joint":
            found[name] = x @ w.T + (0 if bias is None else bias)
            continue
        m = outputs.m
        by_view = w.unflatten(0, (-1, m))  # [C, M, D]: row i*M + j
        found[name] = torch.stack([x[:, j] @ by_view[:, j].T for j in range(m)], 1)
        if bias is not None:
            found[name] += bias.unflatten(0, (-1, m)).T
    return found


def from_views(views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Logits `[n, C]` by predictor from `class_views`: the plain copy, the mean over copies, the student."""
    main = views["joint" if "joint" in views else "classes"]
    found = {"single": main[:, 0], "aggregated": main.mean(1)}
    if "student" in views:
        found["distilled"] = views["student"][:, 0]
    return found


def plain(outputs: ModelOutputs) -> Adjusted:
    """The model as it is: its own test logits, scaled."""
    return Adjusted(PLAIN, {name: outputs.scale * z.float() for name, z in outputs.test_logits.items()})


def logit_adjust(outputs: ModelOutputs, tau: float = 1.0) -> Adjusted:
    """z - tau log p: what Bayes' rule makes of a posterior when the test's prior is uniform (tau = 1).

    Args:
        outputs: a model trained without priors in its loss.
        tau: finite, not negative; 0 changes nothing.

    Raises:
        UsageError: the model was trained with the adjustment, or a tau out of range.
    """
    if outputs.train_shift:
        raise UsageError(
            "train-time and post-hoc adjustment together: the loss had the class priors in it (balanced softmax, "
            "logit-adjusted), so that rare classes would be favoured twice",
            "adjust a model trained with --loss ce, or use this one as it is",
        )
    _check_tau("logit adjustment", tau)
    counts = torch.tensor(outputs.counts, dtype=torch.float64)
    if not bool((counts > 0).all()):
        empty = outputs.class_names[int((counts <= 0).nonzero()[0])]
        raise UsageError(
            f"logit adjustment needs training images of every class, and '{empty}' has none",
            "its prior would be 0, the logit infinite: use a training set that has all classes",
        )
    shift = (tau * (counts / counts.sum()).log()).float()
    own = plain(outputs).logits
    return Adjusted(
        "logit-adjust", {n: z - shift for n, z in own.items()}, "tau", dict.fromkeys(own, float(tau)), "given"
    )


def tau_normalise(outputs: ModelOutputs, tau: float | None = None) -> Adjusted:
    """W_i / ||W_i||^tau without the bias; joint rows by the norm of each. tau = 1 gives rows of length one.

    Decisions are what it is for: the length of the logits changes with tau, so that their NLL and ECE say little.

    Args:
        outputs: a model with linear layers.
        tau: finite, not negative; None chooses one of `TAUS` for each predictor by its balanced accuracy on validation, the
            least of equals.

    Raises:
        UsageError: a cosine layer, a tau out of range, or None without validation images.
    """
    if outputs.cosine:
        raise UsageError(
            "tau-normalisation of a cosine layer: its class vectors have length one already, nothing would change",
            "train with model.layer = linear, and a loss that takes linear layers, such as ce or balanced-softmax",
        )
    if tau is not None:
        _check_tau("tau-normalisation", tau)
        found = logits(outputs, "test", normalised(outputs, tau))
        return Adjusted("tau-norm", found, "tau", dict.fromkeys(found, float(tau)), "given")
    val = need(outputs, "val", "choosing tau", "give tau yourself: --norm-tau 1")
    truth = val.labels.numpy()
    scores = [
        {name: balanced_accuracy(z.argmax(1).numpy(), truth) for name, z in logits(outputs, "val", layers).items()}
        for layers in (normalised(outputs, one) for one in TAUS)
    ]
    best = {name: TAUS[max(range(len(TAUS)), key=lambda at: scores[at][name])] for name in scores[0]}
    tested = {one: logits(outputs, "test", normalised(outputs, one)) for one in set(best.values())}
    how = f"balanced accuracy on {_describe(val, outputs)}"
    return Adjusted("tau-norm", {name: tested[one][name] for name, one in best.items()}, "tau", best, how)


def normalised(outputs: ModelOutputs, tau: float) -> dict[str, Layer]:
    """The class layers with rows divided by the tau-th power of their norm, biases dropped."""
    found: dict[str, Layer] = {}
    for name, (weight, _) in outputs.layers.items():
        if name != "transforms":
            norm = weight.float().norm(dim=1, keepdim=True)
            found[name] = (weight.float() / norm.where(norm > 0, 1) ** tau, None)  # a row of zeros stays one
    return found


def temperature(outputs: ModelOutputs) -> Adjusted:
    """z / T with the T of the least negative log-likelihood on validation, for each predictor. No decision changes.

    The likelihood is concave in 1 / T, so its slope is bisected. Where it has no optimum within `MAX_TEMPERATURE` (every
    validation image is classified rightly, say), T is the end of that range and `how` says so.

    Raises:
        UsageError: no validation images.
    """
    val = need(outputs, "val", "choosing T")
    fitted = {name: fit_temperature(outputs.scale * z, val.labels) for name, z in logits(outputs, "val").items()}
    own = plain(outputs).logits
    how = f"likelihood on {_describe(val, outputs)}"
    ends = [name for name, t in fitted.items() if t in (MAX_TEMPERATURE, 1 / MAX_TEMPERATURE)]
    if ends:
        how += f"; at the end of the range for {', '.join(ends)}"
    return Adjusted("temperature", {name: z / fitted[name] for name, z in own.items()}, "T", fitted, how)


def need(outputs: ModelOutputs, split: str, what: str, remedy: str = "") -> Split:
    """A split's features; without them `what` cannot be had."""
    if split not in outputs.splits:
        default = {
            "val": "train with validation images: data.val_images, or data.val_fraction",
            "train": "the training features were too large to be kept",
        }.get(split, f"kept: {', '.join(outputs.splits)}")
        raise UsageError(f"{what} needs the split '{split}', which these outputs do not have", remedy or default)
    return outputs.splits[split]


def _describe(split: Split, outputs: ModelOutputs) -> str:
    classes = len(np.unique(split.labels.numpy()))
    return f"{len(split.labels):,} validation images of {classes} of {outputs.n_classes} classes"


def _check_tau(what: str, tau: float) -> None:
    if not 0 <= tau < math.inf:
        raise UsageError(
            f"{what} with tau {tau:g}: it must be finite and not negative", "1 is usual, 0 changes nothing"
        )
