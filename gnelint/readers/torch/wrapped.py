"""Modules that hold a network and have no `forward` of their own, as Lightning's may: the network in them is read."""

from __future__ import annotations

from typing import Any

from gnelint.errors import ModelError

_ELSEWHERE = ("torch", "lightning", "pytorch_lightning")
"""Packages whose `forward` says that there is none."""


def sole_network(module: Any) -> Any:
    """The child that holds all of a module's parameters, None if there is none, or several."""
    held = {id(parameter) for parameter in module.parameters()}
    networks = [child for child in module.children() if {id(parameter) for parameter in child.parameters()} == held]
    return networks[0] if held and len(networks) == 1 else None


def forwarding(module: Any, name: str) -> tuple[Any, tuple[str, ...]]:
    """The module that computes something, the given one or the network in it, and what is to be said of that.

    Args:
        module: what was named.
        name: what it is called.

    Raises:
        ModelError: it has no `forward`, and more than one network in it, or none.
    """
    if _has_forward(module):
        return module, ()
    children = dict(module.named_children())
    network = sole_network(module)
    if network is None:
        listed = ", ".join(children) or "none"
        advice = "Write one, or point at a function that returns one of them, or (module, inputs)."
        raise ModelError(name, f"has no forward of its own (modules in it: {listed})", advice)
    inside = next(key for key, child in children.items() if child is network)
    return network, (f"{type(module).__name__} has no forward of its own: the network in it, {inside}, was read",)


def _has_forward(module: Any) -> bool:
    """Whether the class, or one of the user's that it derives from, says what is computed."""
    if "forward" in vars(module):
        return True
    owner = next(each for each in type(module).__mro__ if "forward" in vars(each))
    base = vars(owner).get("training_step") is not None or owner.__name__ == "Module"
    return not (base and owner.__module__.partition(".")[0] in _ELSEWHERE)
