"""Designs that a library builds by their names: `hf:`, `timm:` and `torchvision:` targets. No weights are loaded."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from gnelint.errors import ModelError
from gnelint.readers.target import Target, suggestion
from gnelint.readers.torch.checkpoint import empty_on_meta

SMALL = 100_000_000
"""Parameters up to which a design is built with its numbers."""

_PACKAGES = {"hf": "transformers", "timm": "timm", "torchvision": "torchvision"}


def from_library(target: Target) -> torch.nn.Module:
    """The module that a library builds.

    Raises:
        ModelError: the library is not installed, or does not know the name.
    """
    assert target.library is not None
    package = _PACKAGES[target.library]
    if importlib.util.find_spec(package) is None:
        extra = f"gnelint[{target.library}]"
        raise ModelError(target.text, f"needs {package}, which is not installed", f'Install it: pip install "{extra}"')
    return _BUILDERS[target.library](target)


def _timm(target: Target) -> torch.nn.Module:
    timm = importlib.import_module("timm")
    return _known(target, timm.list_models(), lambda name: timm.create_model(name, pretrained=False))


def _torchvision(target: Target) -> torch.nn.Module:
    models = importlib.import_module("torchvision.models")
    return _known(target, models.list_models(), lambda name: models.get_model(name, weights=None))


def _known(target: Target, names: list[str], make: Callable[[str], Any]) -> torch.nn.Module:
    name = target.attribute or ""
    if name not in names:
        raise ModelError(target.text, f"{target.library} has no design {name}", suggestion(name, names))
    found: torch.nn.Module = make(name)
    return found


# --- transformers -----------------------------------------------------------------------------------------------------


def _transformers(target: Target) -> torch.nn.Module:
    place, _, query = (target.attribute or "").partition("?")
    configuration = _configuration(target, place)
    _override(configuration, query, target)
    cls = _model_class(configuration, target)
    with empty_on_meta():
        sketch = cls(configuration)
    if target.meta or target.weights is not None or sum(p.numel() for p in sketch.parameters()) > SMALL:
        return sketch
    found: torch.nn.Module = cls(configuration)
    return found


def _configuration(target: Target, place: str) -> Any:
    if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
        raise ModelError(target.text, "the directory has no config.json", "Give one that save_pretrained wrote.")
    auto = importlib.import_module("transformers").AutoConfig
    try:
        with _offline():
            return auto.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines()
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            advice = "Import its class yourself and point at it, package.module:name."
            raise ModelError(target.text, "needs code of its own, which is not run", advice) from error
        if Path(place).is_dir() or Path(place).is_file():
            raise ModelError(target.text, f"its config.json is not understood: {lines[0]}") from error
        advice = f"Download it first (hf download {place} config.json), or give a directory that holds a config.json."
        raise ModelError(target.text, "is neither a directory nor in the local cache", advice) from error


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Nothing is asked of a hub."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _override(configuration: Any, query: str, target: Target) -> None:
    """Set what stands behind the question mark: num_hidden_layers=4&hidden_size=64."""
    for setting in filter(None, query.split("&")):
        name, _, text = setting.partition("=")
        if not hasattr(configuration, name):
            hint = suggestion(name, vars(configuration)) or "Write NAME=VALUE, several with & between them."
            raise ModelError(target.text, f'the configuration has no "{name}"', hint)
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        old = getattr(configuration, name)
        setattr(configuration, name, value)
        if name == "num_hidden_layers" and isinstance(old, int):
            _shorten(configuration, old, value)


def _shorten(configuration: Any, old: int, new: int) -> None:
    """Lists with an entry for each layer have as many as there are layers now."""
    for name, value in list(vars(configuration).items()):
        if isinstance(value, list) and len(value) == old and new < old:
            setattr(configuration, name, value[:new])


HEADS = (
    "CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION",
    "IMAGE_TEXT_TO_TEXT", "AUDIO_CLASSIFICATION", "CTC", "SPEECH_SEQ_2_SEQ", "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION", "DEPTH_ESTIMATION", "VIDEO_CLASSIFICATION", "TIME_SERIES_PREDICTION",
)  # fmt: skip
"""Tasks, the first of which that a design has a class for is read where its configuration names none."""


def _model_class(configuration: Any, target: Target) -> Any:
    """The class that the configuration names, else that of its main task."""
    transformers = importlib.import_module("transformers")
    for name in getattr(configuration, "architectures", None) or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    mappings: list[Mapping[Any, Any]] = [getattr(auto, f"MODEL_FOR_{head}_MAPPING") for head in HEADS]
    for mapping in (*mappings, auto.MODEL_MAPPING):
        if type(configuration) in mapping:
            found = mapping[type(configuration)]
            return found[0] if isinstance(found, (tuple, list)) else found
    kind = type(configuration).__name__
    raise ModelError(
        target.text, f"transformers has no network for a {kind}", "Point at its class, package.module:name."
    )


_BUILDERS: Mapping[str, Callable[[Target], torch.nn.Module]] = {
    "hf": _transformers,
    "timm": _timm,
    "torchvision": _torchvision,
}
