"""Networks of packages, built small from their own configurations by one rule: 2 layers, narrow.

For benchmarks that run where transformers, diffusers or x-transformers are installed; no weights are loaded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from gnelint.readers.torch.checkpoint import empty_on_meta
from gnelint.readers.torch.libraries import HEADS

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
}  # fmt: skip
"""Sizes by the names that configurations give them; set where a configuration has the name and a number there."""

ALIKE: Mapping[str, Any] = {**SMALL, "num_key_value_heads": 4}
"""The same with as many keys as queries, where a design has no others."""
SHORT: Mapping[str, Any] = {name: size for name, size in SMALL.items() if "layer" in name or name == "depth"}
"""Two layers of the design's own width, where narrow ones do not fit together."""
LARGEST = 300_000_000

LISTS: Mapping[str, Any] = {"layer_types": 2, "mlp_layer_types": 2, "layers_block_type": 2, "attention_layers": 2}
"""Lists with an entry for each layer, cut to so many."""


@dataclass(frozen=True)
class SmallModel:
    """One network that a package makes.

    Attributes:
        package, family: where it is from.
        name: of its class.
        builds: ways to make it, fresh weights drawn as the package draws them: the first of which it can be called is
            the one to take.
    """

    package: str
    family: str
    name: str
    builds: tuple[Callable[[], nn.Module], ...]


def transformers_models(only: Sequence[str] = ()) -> Iterator[SmallModel]:
    """One model class a model type of the installed transformers: that of its main head."""
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # one of another build must not matter
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    configurations = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    for family in sorted(configurations):
        if only and family not in only:
            continue
        try:
            kind = configurations[family]
            mappings = [getattr(auto, f"MODEL_FOR_{head}_MAPPING") for head in HEADS] + [auto.MODEL_MAPPING]
            cls = next((mapping[kind] for mapping in mappings if kind in mapping), None)
        except Exception:  # a family that needs a package that is not here
            continue
        if cls is not None:
            model = cls[0] if isinstance(cls, tuple) else cls
            builds = tuple(
                lambda m=model, k=kind, sizes=sizes: _not_large(m, small(k(), sizes)) for sizes in (SMALL, ALIKE, SHORT)
            )
            yield SmallModel("transformers", family, model.__name__, builds)


def _not_large(model: type[nn.Module], config: Any) -> nn.Module:
    """The model, if it fits into the memory of a small machine."""
    with empty_on_meta():
        count = sum(parameter.numel() for parameter in model(config).parameters())
    if count > LARGEST:
        raise ValueError(f"{count} parameters are too many")
    return model(config)


def small(config: Any, sizes: Mapping[str, Any] = SMALL) -> Any:
    """The configuration with these sizes, and so its parts."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            small(value, sizes)
        elif name in sizes and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, name, sizes[name])
        elif name in LISTS and isinstance(value, list):
            setattr(config, name, value[: LISTS[name]])
    return config


def x_transformers_models() -> Iterator[SmallModel]:
    """Decoders and encoders with the main options of x-transformers."""
    try:
        package = importlib.import_module("x_transformers")
    except ImportError:
        return
    options: Mapping[str, Mapping[str, Any]] = {
        "plain": {}, "rotary": {"rotary_pos_emb": True}, "alibi": {"alibi_pos_bias": True},
        "rmsnorm": {"use_rmsnorm": True}, "swiglu": {"ff_glu": True, "ff_swish": True},
        "talking heads": {"attn_pre_talking_heads": True}, "one key head": {"attn_one_kv_head": True},
        "relative bias": {"rel_pos_bias": True}, "qk norm": {"attn_qk_norm": True}, "sandwich": {"sandwich_norm": True},
    }  # fmt: skip
    for kind in ("Decoder", "Encoder"):
        for option, keywords in options.items():
            layers = partial(getattr(package, kind), dim=64, depth=2, heads=4, **keywords)
            build = partial(_wrapped, package, layers)
            yield SmallModel("x-transformers", f"{kind} {option}", "TransformerWrapper", (build,))


def _wrapped(package: Any, layers: Callable[[], nn.Module]) -> nn.Module:
    made: nn.Module = package.TransformerWrapper(num_tokens=128, max_seq_len=64, attn_layers=layers())
    return made


def models(only: Sequence[str] = ()) -> Iterator[SmallModel]:
    """All of them, or the families named."""
    yield from transformers_models(only)
    yield from (model for model in x_transformers_models() if not only or model.family in only)
