"""Networks of packages, built small from their own configurations by one rule: 2 layers, narrow.

For benchmarks that run where transformers, diffusers or x-transformers are installed; no weights are loaded.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from gnelint.readers.torch.checkpoint import empty_on_meta
from gnelint.readers.torch.libraries import HEADS
from tests.benchmarks.small_model import SmallModel
from tests.benchmarks.small_models_other import diffusers_models, x_transformers_models

SMALL: Mapping[str, Any] = {
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embed_dim": 64, "embedding_size": 64, "emb_dim": 64,
    "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_encoder_layers": 2, "num_decoder_layers": 2, "depth": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "n_head": 4, "n_heads": 4, "num_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "head_dim": 16, "d_kv": 16, "intermediate_size": 128, "d_ff": 128, "n_inner": 128, "ffn_dim": 128,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "ffn_hidden_size": 128, "hidden_dim": 128, "vocab_size": 128,
    "image_size": 32, "patch_size": 8, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "max_position_embeddings": 64, "n_positions": 64,
    "d_inner": 128, "state_size": 8, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "qk_head_dim": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "n_ctx": 64, "first_k_dense_replace": 1, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "num_labels": 5, "num_frames": 2, "num_mel_bins": 16, "max_source_positions": 32, "num_channels": 3,
    "projection_dim": 64, "decoder_start_token_id": 1, "max_target_positions": 64, "num_queries": 8,
    "rotary_dim": 8, "encoder_hidden_size": 64, "cross_attention_hidden_size": 64, "mm_hidden_size": 64,
    "cross_hidden_size": 64, "cross_num_attention_heads": 4, "cross_num_key_value_heads": 4, "cross_head_dim": 16,
    "output_channels": 64, "mamba_d_state": 8, "mamba_n_groups": 1, "n_groups": 1, "prediction_length": 4,
    "context_size": 32,
}  # fmt: skip
"""Sizes by the names that configurations give them; set where a configuration has the name and a number there."""

ALIKE: Mapping[str, Any] = {**SMALL, "num_key_value_heads": 4}
"""The same with as many keys as queries, where a design has no others."""
BROAD: Mapping[str, Any] = {
    **ALIKE, "hidden_size": 512, "d_model": 512, "dim": 512, "embed_dim": 512, "n_embd": 512, "embedding_size": 512,
    "head_dim": 128, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "qk_head_dim": 192,
    "encoder_hidden_size": 512, "cross_attention_hidden_size": 512, "mm_hidden_size": 512, "rotary_dim": 64,
    "projection_dim": 512,
}  # fmt: skip
"""Heads as wide as in most large designs, for those with constants that belong to such."""
SHORT: Mapping[str, Any] = {
    name: size
    for name, size in SMALL.items()
    if "layer" in name or "expert" in name or name in ("depth", "vocab_size", "first_k_dense_replace")
}
"""Two layers, few experts and words, of the design's own width, where narrow ones do not fit together."""
LOW: Mapping[str, Any] = {**SHORT, "image_size": 64}
"""The same with small images, where they fit."""
BUILDS = (SMALL, ALIKE, BROAD, LOW, SHORT)
LARGEST = 170_000_000

UNSAID = frozenset({"head_dim", "vocab_size", "pad_token_id", "prediction_length", "num_experts_per_tok"})
"""What some configurations leave open by default, and their networks need."""

UNSAID_WORDS: Mapping[str, int] = dict.fromkeys(
    ("image_token_id", "image_token_index", "video_token_id", "video_token_index"), 2
)
"""Words that stand for something else, left open by default; no text that is fed has them."""

LISTS: Mapping[str, Any] = {"layer_types": 2, "mlp_layer_types": 2, "layers_block_type": 2, "attention_layers": 2}
"""Lists with an entry for each layer, cut to so many."""


def transformers_models(only: Sequence[str] = ()) -> Iterator[SmallModel]:
    """One model class a model type of the installed transformers, or of those named: that of its main head."""
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # one of another build must not matter
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    configurations = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    for family in only or sorted(configurations):
        if family not in configurations:
            continue
        try:
            kind = configurations[family]
            mappings = [getattr(auto, f"MODEL_FOR_{head}_MAPPING") for head in HEADS] + [auto.MODEL_MAPPING]
            cls = next((mapping[kind] for mapping in mappings if kind in mapping), None)
        except Exception:  # a family that needs a package that is not here
            continue
        if cls is not None:
            model = cls[0] if isinstance(cls, tuple) else cls
            builds = tuple(lambda m=model, k=kind, sizes=sizes: _not_large(m, small(k, sizes)) for sizes in BUILDS)
            yield SmallModel("transformers", family, model.__name__, builds)


def _not_large(model: type[nn.Module], config: Any) -> nn.Module:
    """The model, if it fits into the memory of a small machine."""
    with empty_on_meta():
        count = sum(parameter.numel() for parameter in model(config).parameters())
    if count > LARGEST:
        raise ValueError(f"{count} parameters are too many")
    return model(config)


def small(kind: type[Any], sizes: Mapping[str, Any] = SMALL) -> Any:
    """A configuration with these sizes where it has such a number, its parts as well, built anew from them: what it
    derives from its sizes fits."""
    return _smaller(kind(), sizes)


def _smaller(config: Any, sizes: Mapping[str, Any]) -> Any:
    given: dict[str, Any] = {}
    as_usual = _usual(type(config))
    changed = (name for name, value in vars(config).items() if as_usual and as_usual.get(name, _UNUSUAL) != value)
    given.update({name: getattr(config, name) for name in changed if not name.startswith("_")})
    if any(vars(config).get(name) for name in _OUTPUTS_OF_LAYERS) or _has_a_size_a_layer(config):
        sizes = {name: size for name, size in sizes.items() if "layer" not in name and name != "depth"}
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            given[name] = _smaller(value, sizes)
        elif name in sizes and _is_size(name, value):
            given[name] = sizes[name]
        elif value is None and name in UNSAID_WORDS:
            given[name] = UNSAID_WORDS[name]
        elif name in LISTS and isinstance(value, list):
            given[name] = value[: LISTS[name]]
    try:
        taken = inspect.signature(type(config)).parameters
        found = type(config)(**{name: value for name, value in given.items() if name in taken})
        left = {
            name: value
            for name, value in given.items()
            if name not in taken and (hasattr(value, "to_dict") or name not in vars(found))
        }
    except Exception:  # sizes that belong together are checked one by one
        found, left = config, given
    for name, value in left.items():
        setattr(found, name, value)
    vars(found).update({name: vars(config)[name] for name in _OUTPUTS_OF_LAYERS if vars(config).get(name)})
    _fit(found)
    return found


_UNUSUAL = object()
"""What no configuration holds."""


def _has_a_size_a_layer(config: Any) -> bool:
    """Whether a list says the width of each layer: such a design keeps its depth."""
    depth, widths = vars(config).get("num_hidden_layers"), vars(config).get("hidden_sizes")
    return isinstance(widths, (list, tuple)) and len(widths) == depth


def _usual(kind: type[Any]) -> Mapping[str, Any]:
    """What a configuration of a kind holds where nobody says otherwise: what differs was said by whom it is part of."""
    try:
        return vars(kind())
    except Exception:
        return {}


def _is_size(name: str, value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (value is None and name in UNSAID)


def _fit(config: Any) -> None:
    """What follows from other sizes, by the names that several designs share."""
    inner, width = getattr(config, "expand", None) or getattr(config, "mamba_expand", None), SMALL["head_dim"]
    hidden = getattr(config, "hidden_size", None)
    for count, size in _HEADS_OF_STATES:
        if isinstance(inner, int) and hidden and isinstance(vars(config).get(count), int) and size in vars(config):
            setattr(config, count, inner * hidden // width)
            setattr(config, size, width)
    heads, rope = getattr(config, "num_attention_heads", None), getattr(config, "rope_parameters", None)
    whole = getattr(config, "head_dim", None) or (hidden // heads if heads and hidden else None)
    if whole and isinstance(rope, dict):  # of the three axes of positions; designs have defaults for wide heads
        half = int(whole * rope.get("partial_rotary_factor", 1.0)) // 2
        part = 3 * half // 8  # two alike, which some designs take by turns
        rope["mrope_section"] = [part, part, half - 2 * part]
    pad, words = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if pad is None or (isinstance(words, int) and pad >= words):
        config.pad_token_id = SMALL["pad_token_id"]


_OUTPUTS_OF_LAYERS = ("out_indices", "_out_indices", "backbone_out_indices", "out_features", "_out_features")
"""Who reads the outputs of certain layers keeps its depth."""
_HEADS_OF_STATES = (("num_heads", "head_dim"), ("mamba_n_heads", "mamba_d_head"), ("mamba_num_heads", "mamba_head_dim"))


def families() -> list[str]:
    """The names of all networks that are made here: parts that no class of models is listed for are none."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    configurations = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    listed = {*auto.MODEL_MAPPING_NAMES}.union(*(getattr(auto, f"MODEL_FOR_{head}_MAPPING_NAMES") for head in HEADS))
    return [*(name for name in sorted(configurations) if name in listed), *(model.family for model in _others())]


def models(only: Sequence[str] = ()) -> Iterator[SmallModel]:
    """All of them, or the families named."""
    yield from transformers_models(only)
    yield from (model for model in _others() if not only or model.family in only)


def _others() -> Iterator[SmallModel]:
    yield from diffusers_models()
    yield from x_transformers_models()
