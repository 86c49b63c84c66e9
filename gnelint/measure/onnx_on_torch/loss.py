"""Losses: negative log-likelihood of the classes, of logarithms of probabilities or of scores."""

from __future__ import annotations

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator


@operator("NegativeLogLikelihoodLoss", since=12)
def nll_loss(call: Call, log_probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """-w[t] log p[t], as it is, summed, or averaged with the weights w; 0 where t is the ignored class."""
    return _negative_log_likelihood(call, log_probabilities, target, weight)


@operator("SoftmaxCrossEntropyLoss", since=12)
def cross_entropy(
    call: Call, scores: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """The negative log-likelihood of softmax(scores) over the classes in axis 1; the logarithms themselves too."""
    log_probabilities = scores.log_softmax(1)
    loss = _negative_log_likelihood(call, log_probabilities, target, weight)
    return (loss, log_probabilities) if call.used(1) else loss


def _negative_log_likelihood(call: Call, log_probabilities: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    reduction = call.get("reduction")
    if reduction not in ("none", "sum", "mean"):
        raise CannotRunError(f'reduction "{reduction}"')
    classes = target.long()
    ignored = call.get("ignore_index")
    kept = None if ignored is None else classes != ignored
    if kept is not None:
        classes = classes.where(kept, torch.zeros_like(classes))  # an ignored class need not be one
    loss = -log_probabilities.gather(1, classes.unsqueeze(1)).squeeze(1)
    if kept is not None:
        loss = loss.masked_fill(~kept, 0)  # before the weights: 0 times infinity is no 0
    weights = _weights(loss, classes, kept, weight)
    if weights is not None:
        loss = loss * weights
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if weights is None else loss.sum() / weights.sum()


def _weights(loss: Tensor, classes: Tensor, kept: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """The weight of each sample, None for all the same."""
    if weight is None:
        return None if kept is None else kept.to(loss.dtype)
    weights = weight[classes]
    return weights if kept is None else weights.masked_fill(~kept, 0)
