"""Networks whose layers become those of `gnelint.nn`, or plain ones again for inference."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from gnelint.nn.centred import Centred, CentredConv1d, CentredConv2d, CentredConv3d, CentredLinear, centred
from gnelint.nn.channel_norm import ChannelNorm
from gnelint.nn.l1 import L1Norm1d, L1Norm2d, L1Norm3d, _L1Norm
from gnelint.nn.second_moment import SecondMomentNorm1d, SecondMomentNorm2d, SecondMomentNorm3d, _SecondMomentNorm
from gnelint.nn.synchronised import SyncSecondMomentNorm

SECOND_MOMENT: Mapping[type[nn.Module], type[ChannelNorm]] = {
    nn.BatchNorm1d: SecondMomentNorm1d,
    nn.BatchNorm2d: SecondMomentNorm2d,
    nn.BatchNorm3d: SecondMomentNorm3d,
    nn.SyncBatchNorm: SyncSecondMomentNorm,
}
L1: Mapping[type[nn.Module], type[ChannelNorm]] = {
    nn.BatchNorm1d: L1Norm1d,
    nn.BatchNorm2d: L1Norm2d,
    nn.BatchNorm3d: L1Norm3d,
}
CENTRED: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Linear: CentredLinear,
    nn.Conv1d: CentredConv1d,
    nn.Conv2d: CentredConv2d,
    nn.Conv3d: CentredConv3d,
}
_PLAIN: Mapping[type[nn.Module], type[nn.Module]] = {ours: theirs for theirs, ours in CENTRED.items()}
_SYNCHRONISED = dict.fromkeys((SecondMomentNorm1d, SecondMomentNorm2d, SecondMomentNorm3d), SyncSecondMomentNorm)


def convert(module: nn.Module, what: str) -> nn.Module:
    """The network with the layers of one kind replaced, in place; a layer by itself gives its replacement.

        "batchnorm->smn"    BatchNorm1d, 2d, 3d and SyncBatchNorm become second moment normalisations
        "batchnorm->l1"     BatchNorm1d, 2d and 3d become L1 normalisations
        "smn->syncsmn"      second moment normalisations are synchronised across processes
        "plain->centred"    Linear and Conv1d, 2d and 3d have their filters centred in every pass
        "centred->plain"    the filters are centred once more, and then plain

    Parameters are taken over as they are, running statistics as they load (eps of a batch normalisation, which is added
    to a variance, becomes its root). Subclasses of these layers are left alone: what they do besides is not known.
    Second moment normalisation is batch normalisation only behind centred filters: convert those in front of it, too.

    Raises:
        ValueError: there is no such conversion.
    """
    if what not in _CONVERSIONS:
        raise ValueError(f"there is no conversion {what!r}; there are {', '.join(_CONVERSIONS)}")
    return _replaced(module, _CONVERSIONS[what], {})


def _replaced(
    module: nn.Module, made: Callable[[nn.Module], nn.Module | None], known: dict[int, nn.Module]
) -> nn.Module:
    """The module or what is made of it; one that stands at several places is replaced by one."""
    if id(module) not in known:
        new = made(module)
        known[id(module)] = module if new is None else new
        if new is not None:
            new.train(module.training)
            return new
        for name, child in list(module._modules.items()):
            other = child if child is None else _replaced(child, made, known)
            if other is not child:
                setattr(module, name, other)
    return known[id(module)]


def second_moment_of(norm: nn.Module) -> nn.Module | None:
    """The second moment normalisation with the state of a batch normalisation; None for another layer."""
    return _norm_of(norm, SECOND_MOMENT)


def _l1_of(norm: nn.Module) -> nn.Module | None:
    return _norm_of(norm, L1)


def _synchronised_of(norm: nn.Module) -> nn.Module | None:
    made = _SYNCHRONISED.get(type(norm))
    return None if made is None else _with_state(norm, made, norm.eps, relu=norm.relu)


def _norm_of(norm: nn.Module, kinds: Mapping[type[nn.Module], type[ChannelNorm]]) -> nn.Module | None:
    made = kinds.get(type(norm))
    if made is None:
        return None
    group = {"process_group": norm.process_group} if isinstance(norm, nn.SyncBatchNorm) else {}
    return _with_state(norm, made, norm.eps**0.5, **group)


def _with_state(norm: nn.Module, made: type[ChannelNorm], eps: float, **options: object) -> nn.Module:
    tensors = [*norm.parameters(), *norm.buffers()]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    kind = {"device": floating[0].device, "dtype": floating[0].dtype} if floating else {}
    bias = norm.bias is not None
    new = made(
        norm.num_features, eps, norm.momentum, norm.affine, norm.track_running_stats, bias=bias, **kind, **options
    )
    new.load_state_dict(norm.state_dict())
    new.weight, new.bias = norm.weight, norm.bias
    return new


def _centre(layer: nn.Module) -> None:
    if type(layer) in CENTRED and not parametrize.is_parametrized(layer):
        layer.__class__ = CENTRED[type(layer)]  # the same object: its hooks, ties and places stay


def _make_plain(layer: nn.Module) -> None:
    if parametrize.is_parametrized(layer, "weight"):
        if all(isinstance(one, Centred) for one in layer.parametrizations["weight"]):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    elif type(layer) in _PLAIN:
        layer.__class__ = _PLAIN[type(layer)]
        with torch.no_grad():
            layer.weight.copy_(centred(layer.weight))


_CONVERSIONS: Mapping[str, Callable[[nn.Module], nn.Module | None]] = {
    "batchnorm->smn": second_moment_of,
    "batchnorm->l1": _l1_of,
    "smn->syncsmn": _synchronised_of,
    "plain->centred": _centre,
    "centred->plain": _make_plain,
}


def fold(module: nn.Module) -> nn.Module:
    """A copy for inference: centred filters are plain ones, and normalisations are part of the layers in front of them.

    A normalisation (batch, second moment, L1) with running statistics is a factor and a shift for each channel. Where
    one layer (linear, convolution) alone leads to it, and is called once, both go into that layer's weight and bias,
    and the normalisation becomes an identity, or a ReLU where it has one. Which layer leads to which is read from the
    network as torch.fx traces it; of one that cannot be traced, from its `nn.Sequential`s. What is not folded stays,
    and computes the same.
    """
    folded = convert(copy.deepcopy(module).eval(), "centred->plain")
    for before, after in _pairs(folded):
        layer, norm = folded.get_submodule(before), folded.get_submodule(after)
        found = _factor_and_shift(norm)
        if found is not None and _take_in(layer, *found):
            rectified = isinstance(norm, _SecondMomentNorm) and norm.relu
            folded.set_submodule(after, nn.ReLU() if rectified else nn.Identity())
    return folded


class _Tracer(fx.Tracer):  # type: ignore[misc]
    """Keeps our layers whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ChannelNorm) or bool(super().is_leaf_module(m, module_qualified_name))


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Paths of layers and of the normalisations that alone read what they give."""
    paths = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    try:
        found = list(_traced_pairs(_Tracer().trace(module)))
    except Exception:
        found = list(_sequential_pairs(module))
    return [
        (before, after)
        for before, after in found
        if paths[id(module.get_submodule(before))] == paths[id(module.get_submodule(after))] == 1
    ]


def _traced_pairs(graph: fx.Graph) -> Iterator[tuple[str, str]]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if node.op != "call_module" or calls[node.target] != 1 or len(inputs) != 1:
            continue
        (before,) = inputs
        if before.op == "call_module" and calls[before.target] == 1 and len(before.users) == 1:
            yield before.target, node.target


def _sequential_pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    for path, part in module.named_modules():
        if type(part) is nn.Sequential:
            names = [f"{path}.{name}" if path else name for name, _ in part.named_children()]
            yield from itertools.pairwise(names)


def _factor_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """What a normalisation multiplies each channel by and adds to it in evaluation; None for what is none."""
    if type(norm) not in (*SECOND_MOMENT, *L1) and not isinstance(norm, (_SecondMomentNorm, _L1Norm)):
        return None
    if norm.num_batches_tracked is None:
        return None
    buffers = {name: buffer.double() for name, buffer in norm.named_buffers()}
    if isinstance(norm, _SecondMomentNorm):
        divisor = buffers["running_second_moment"].sqrt() + norm.eps
    elif isinstance(norm, _L1Norm):
        divisor = buffers["running_deviation"] + norm.eps
    else:
        divisor = (buffers["running_var"] + norm.eps).sqrt()
    factor = divisor.reciprocal() if norm.weight is None else norm.weight.detach().double() / divisor
    shift = torch.zeros_like(factor) if norm.bias is None else norm.bias.detach().double()
    mean = buffers.get("running_mean")
    return factor, shift if mean is None else shift - mean * factor


def _take_in(layer: nn.Module, factor: Tensor, shift: Tensor) -> bool:
    """Put a factor and a shift for each output channel into a layer; False where it has nowhere to put them."""
    if type(layer) not in CENTRED or parametrize.is_parametrized(layer):
        return False
    weight = layer.weight.detach().double() * factor.view(-1, *(1,) * (layer.weight.dim() - 1))
    bias = shift if layer.bias is None else layer.bias.detach().double() * factor + shift
    kind = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(kind), requires_grad=layer.weight.requires_grad)
    layer.bias = nn.Parameter(bias.to(kind), requires_grad=layer.weight.requires_grad)
    return True
