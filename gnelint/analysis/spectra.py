"""What each node does to the gradient by itself, phi(J J^T)."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from contextlib import suppress

import numpy as np

from gnelint.analysis.blocks import NodeSpectrum
from gnelint.analysis.correlation import CORRELATED, correlated_joins
from gnelint.analysis.fallback import Fallback
from gnelint.analysis.forward import FAILURES, Forward, apply, reason
from gnelint.analysis.sampling import ASSUMED_BITS, Sampled
from gnelint.analysis.uncertainty import GradientErrors
from gnelint.ir.graph import Graph, Node
from gnelint.records import replace
from gnelint.theory.fields.moments import Moments


def own_spectra(graph: Graph, forward: Forward) -> dict[str, NodeSpectrum]:
    """What each node does by itself, for the nodes whose moments are known."""
    found: dict[str, NodeSpectrum] = {}
    correlated = correlated_joins(graph)
    for node in graph.gradient_nodes:
        component = forward.components.get(node.name)
        if component is None:
            continue
        states = [None if name is None else forward.moments.get(name) for name in node.inputs]
        outputs = [forward.moments[name] for name in node.outputs]
        try:
            with np.errstate(all="ignore"):
                phis = component.phis(states, outputs)
                variance = component.phi_variance(states, outputs)
                structure = component.structure(states, outputs)
        except FAILURES as error:
            forward.problems.setdefault(node.name, reason(error))
            continue
        if any(phi is not None and not math.isfinite(phi) for phi in phis):
            continue
        if variance is not None and not math.isfinite(variance):
            variance = None
        basis, assumptions = component.basis, component.assumptions
        if node.name in correlated:
            basis, assumptions = "approximate", (*assumptions, CORRELATED)
        found[node.name] = NodeSpectrum(phis, variance, basis, assumptions, structure)
    return found


def opened(
    sampled: Fallback, forward: Forward, spectra: Mapping[str, NodeSpectrum], errors: GradientErrors
) -> tuple[Forward, dict[str, NodeSpectrum], GradientErrors]:
    """What was found of regions as what their nodes are said to do: phi by their own formulas, where they have some,
    on the moments that were measured."""
    moments, spectra, gradients = dict(forward.moments), dict(spectra), dict(errors.gradients)
    for name, region in sampled.regions.items():
        component = forward.components.get(name)
        whole = spectra.pop(name, None)
        if not isinstance(component, Sampled):
            continue
        for value in component.inner:
            if value not in moments:
                with suppress(*FAILURES):
                    moments[value] = component.inner[value]
        met = [gradients[value] for value in region.outputs if value in gradients]
        error = max(met, key=lambda each: each.bound, default=None)
        if error is not None:
            assumed = region.assumed_bits()
            for value, bits in component.inner_bits.items():
                variance = error.variance + assumed.get(value, ASSUMED_BITS) ** 2 + bits**2
                gradients.setdefault(value, replace(error, variance=variance))
        for node in region.nodes:
            own = whole if len(region.nodes) == 1 else _own_spectrum(sampled.original, node, moments)
            spectra[node.name] = own or NodeSpectrum((), None, component.basis, component.assumptions)
    return replace(forward, moments=moments), spectra, replace(errors, gradients=gradients)


def _own_spectrum(graph: Graph, node: Node, moments: MutableMapping[str, Moments]) -> NodeSpectrum | None:
    """What a node of a region does by itself; None where no formula says so."""
    found = Forward(ChainMap({}, moments))
    with suppress(*FAILURES), np.errstate(all="ignore"):
        apply(graph, node, found, True)
        component = found.components[node.name]
        states = [None if name is None else moments.get(name) for name in node.inputs]
        phis = component.phis(states, [found.moments[name] for name in node.outputs])
        if all(phi is None or math.isfinite(phi) for phi in phis):
            return NodeSpectrum(phis, None, Sampled.basis, Sampled.assumptions)
    return None
