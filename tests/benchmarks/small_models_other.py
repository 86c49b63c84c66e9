"""Small networks of diffusers and x-transformers, with the main options of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from tests.benchmarks.small_model import SmallModel

_HEADS: Mapping[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}
_CONDITIONED: Mapping[str, Any] = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 8,
    "norm_num_groups": 8,
}  # fmt: skip
_BOTH_WAYS: Mapping[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    **_CONDITIONED,
}  # fmt: skip
_CODER: Mapping[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 64), "norm_num_groups": 8,
}  # fmt: skip
_PATCHES: Mapping[str, Any] = {"sample_size": 8, "num_layers": 2, **_HEADS}

DIFFUSERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "unet": ("UNet2DModel", {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1,
                             "norm_num_groups": 8, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                             "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}),
    "unet of classes": ("UNet2DModel", {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1,
                                        "norm_num_groups": 8, "down_block_types": ("DownBlock2D", "DownBlock2D"),
                                        "up_block_types": ("UpBlock2D", "UpBlock2D"), "num_class_embeds": 10,
                                        "resnet_time_scale_shift": "scale_shift"}),
    "unet of a skip kind": ("UNet2DModel", {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1,
                                            "norm_num_groups": 8, "down_block_types": ("SkipDownBlock2D",) * 2,
                                            "up_block_types": ("SkipUpBlock2D",) * 2}),
    "unet 1d": ("UNet1DModel", {"sample_size": 64, "block_out_channels": (32, 32, 64), "in_channels": 14,
                                 "extra_in_channels": 64, "out_channels": 14}),
    "unet with text": ("UNet2DConditionModel", {"sample_size": 16, **_BOTH_WAYS}),
    "unet with text, linear": ("UNet2DConditionModel", {"sample_size": 16, **_BOTH_WAYS,
                                                         "use_linear_projection": True, "act_fn": "mish"}),
    "unet with films": ("UNet3DConditionModel", {"sample_size": 16, **_CONDITIONED,
                                                 "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
                                                 "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")}),
    "controlnet": ("ControlNetModel", {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                                       "conditioning_embedding_out_channels": (16, 16, 16, 32), **_CONDITIONED}),
    "autoencoder kl": ("AutoencoderKL", {"sample_size": 32, "latent_channels": 4, **_CODER}),
    "autoencoder tiny": ("AutoencoderTiny", {"encoder_block_out_channels": (32, 32),
                                             "decoder_block_out_channels": (32, 32), "num_encoder_blocks": (1, 2),
                                             "num_decoder_blocks": (2, 1)}),
    "autoencoder asymmetric": ("AsymmetricAutoencoderKL", {"down_block_types": ("DownEncoderBlock2D",) * 2,
                                                           "up_block_types": ("UpDecoderBlock2D",) * 2,
                                                           "down_block_out_channels": (32, 64),
                                                           "up_block_out_channels": (32, 64), "norm_num_groups": 8}),
    "autoencoder dc": ("AutoencoderDC", {"encoder_block_out_channels": (32, 64), "latent_channels": 8,
                                         "decoder_block_out_channels": (32, 64), "encoder_layers_per_block": (1, 1),
                                         "decoder_layers_per_block": (1, 1), "encoder_qkv_multiscales": ((), (5,)),
                                         "decoder_qkv_multiscales": ((), (5,)), "attention_head_dim": 16,
                                         "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
                                         "decoder_block_types": ("ResBlock", "EfficientViTBlock")}),
    "autoencoder of sound": ("AutoencoderOobleck", {"encoder_hidden_size": 16, "downsampling_ratios": [2, 4],
                                                    "channel_multiples": [1, 2], "decoder_channels": 16,
                                                    "decoder_input_channels": 8}),
    "vq": ("VQModel", {"sample_size": 32, "num_vq_embeddings": 64, **_CODER}),
    "dit": ("DiTTransformer2DModel", {**_PATCHES, "in_channels": 4, "num_embeds_ada_norm": 10}),
    "sd3": ("SD3Transformer2DModel", {**_PATCHES, "joint_attention_dim": 32, "caption_projection_dim": 32,
                                      "pooled_projection_dim": 64, "in_channels": 4, "out_channels": 4}),
    "sd3.5": ("SD3Transformer2DModel", {**_PATCHES, "joint_attention_dim": 32, "caption_projection_dim": 32,
                                        "pooled_projection_dim": 64, "in_channels": 4, "out_channels": 4,
                                        "qk_norm": "rms_norm", "dual_attention_layers": (0,)}),
    "flux": ("FluxTransformer2DModel", {**_HEADS, "in_channels": 4, "num_layers": 1, "num_single_layers": 1,
                                        "joint_attention_dim": 32, "pooled_projection_dim": 32,
                                        "axes_dims_rope": (4, 4, 8)}),
    "flux guided": ("FluxTransformer2DModel", {**_HEADS, "in_channels": 4, "num_layers": 1, "num_single_layers": 1,
                                               "joint_attention_dim": 32, "pooled_projection_dim": 32,
                                               "axes_dims_rope": (4, 4, 8), "guidance_embeds": True}),
    "pixart": ("PixArtTransformer2DModel", {**_PATCHES, "cross_attention_dim": 32, "caption_channels": 32}),
    "auraflow": ("AuraFlowTransformer2DModel", {**_HEADS, "sample_size": 8, "num_mmdit_layers": 1,
                                                "num_single_dit_layers": 1, "joint_attention_dim": 32,
                                                "caption_projection_dim": 32, "pos_embed_max_size": 64}),
    "sana": ("SanaTransformer2DModel", {**_PATCHES, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32,
                                        "num_cross_attention_heads": 2, "cross_attention_head_dim": 16,
                                        "caption_channels": 32}),
    "transformer 2d": ("Transformer2DModel", {"in_channels": 32, "num_layers": 1, "norm_num_groups": 8,
                                              "cross_attention_dim": 32, **_HEADS}),
    "cogvideox": ("CogVideoXTransformer3DModel", {**_HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 2,
                                                  "text_embed_dim": 32, "time_embed_dim": 16, "sample_width": 8,
                                                  "sample_height": 8, "sample_frames": 9, "max_text_seq_length": 16}),
    "ltx": ("LTXVideoTransformer3DModel", {**_HEADS, "in_channels": 8, "out_channels": 8, "num_layers": 2,
                                           "cross_attention_dim": 32, "caption_channels": 32}),
    "wan": ("WanTransformer3DModel", {**_HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 2, "text_dim": 32,
                                      "freq_dim": 32, "ffn_dim": 64}),
    "lumina2": ("Lumina2Transformer2DModel", {"sample_size": 8, "in_channels": 4, "hidden_size": 48, "num_layers": 2,
                                              "num_refiner_layers": 1, "num_attention_heads": 3, "num_kv_heads": 1,
                                              "multiple_of": 16, "axes_dim_rope": (4, 4, 8), "cap_feat_dim": 32}),
    "prior": ("PriorTransformer", {**_HEADS, "num_layers": 2, "embedding_dim": 32, "num_embeddings": 7}),
    "stable audio": ("StableAudioDiTModel", {**_HEADS, "sample_size": 16, "in_channels": 4, "num_layers": 2,
                                             "num_key_value_attention_heads": 2, "out_channels": 4,
                                             "cross_attention_dim": 32, "cross_attention_input_dim": 32,
                                             "time_proj_dim": 32, "global_states_input_dim": 32}),
}  # fmt: skip
"""Main models of diffusers, small, with sizes as in their own tests."""

X_TRANSFORMERS: Mapping[str, Mapping[str, Any]] = {
    "plain": {}, "rotary": {"rotary_pos_emb": True}, "alibi": {"alibi_pos_bias": True},
    "rmsnorm": {"use_rmsnorm": True}, "swiglu": {"ff_glu": True, "ff_swish": True},
    "talking heads": {"attn_pre_talking_heads": True}, "one key head": {"attn_one_kv_head": True},
    "relative bias": {"rel_pos_bias": True}, "qk norm": {"attn_qk_norm": True}, "sandwich": {"sandwich_norm": True},
    "scalenorm": {"use_scalenorm": True}, "simple rmsnorm": {"use_simple_rmsnorm": True},
    "squared relu": {"ff_relu_squared": True}, "no bias": {"ff_no_bias": True}, "macaron": {"macaron": True},
    "gate of residuals": {"gate_residual": True}, "gate of values": {"attn_gate_values": True},
    "memories": {"attn_num_mem_kv": 4}, "residual attention": {"residual_attn": True},
    "shifted tokens": {"shift_tokens": 1}, "top keys": {"attn_sparse_topk": 4}, "flash": {"attn_flash": True},
    "post norm": {"pre_norm": False}, "two residuals": {"resi_dual": True, "pre_norm": False},
    "scaled residual": {"scale_residual": True}, "dynamic bias": {"dynamic_pos_bias": True},
    "clamped": {"softclamp_output": True}, "on attention": {"attn_on_attn": True},
    "few key heads": {"attn_kv_heads": 2},
    "value residual": {"attn_learned_value_residual_mix": True, "add_value_residual": True},
    "drop layers": {"layer_dropout": 0.1}, "post gelu norm": {"ff_post_act_ln": True},
    "sandwiched order": {"sandwich_coef": 1}, "tied": {"weight_tie_layers": True},
}  # fmt: skip
"""Options of the layers of x-transformers."""


def diffusers_models() -> Iterator[SmallModel]:
    """The main models of diffusers."""
    try:
        package = importlib.import_module("diffusers")
    except ImportError:
        return
    for family, (name, sizes) in DIFFUSERS.items():
        yield SmallModel("diffusers", f"diffusers {family}", name, (partial(_made, package, name, sizes),))


def _made(package: Any, name: str, sizes: Mapping[str, Any]) -> nn.Module:
    made: nn.Module = getattr(package, name)(**sizes)
    return made


def x_transformers_models() -> Iterator[SmallModel]:
    """Decoders and encoders with the main options of x-transformers, and its other wrappers."""
    try:
        package = importlib.import_module("x_transformers")
    except ImportError:
        return

    def layers(kind: str, **options: Any) -> nn.Module:
        found: nn.Module = getattr(package, kind)(dim=64, depth=2, heads=4, **options)
        return found

    def words(kind: str, options: Mapping[str, Any]) -> nn.Module:
        found: nn.Module = package.TransformerWrapper(
            num_tokens=128, max_seq_len=64, attn_layers=layers(kind, **options)
        )
        return found

    for kind in ("Decoder", "Encoder"):
        for option, options in X_TRANSFORMERS.items():
            yield SmallModel(
                "x-transformers", f"{kind} {option}", "TransformerWrapper", (partial(words, kind, options),)
            )
    others: Sequence[tuple[str, Callable[[], nn.Module]]] = (
        ("ViTransformerWrapper", lambda: package.ViTransformerWrapper(
            image_size=32, patch_size=8, num_classes=10, attn_layers=layers("Encoder"))),
        ("ContinuousTransformerWrapper", lambda: package.ContinuousTransformerWrapper(
            dim_in=32, dim_out=10, max_seq_len=64, attn_layers=layers("Encoder"))),
        ("XTransformer", lambda: package.XTransformer(
            dim=64, enc_num_tokens=128, enc_depth=2, enc_heads=4, enc_max_seq_len=64, dec_num_tokens=128, dec_depth=2,
            dec_heads=4, dec_max_seq_len=64)),
        ("AutoregressiveWrapper", lambda: package.AutoregressiveWrapper(words("Decoder", {}))),
    )  # fmt: skip
    for name, build in others:
        yield SmallModel("x-transformers", name, name, (build,))
