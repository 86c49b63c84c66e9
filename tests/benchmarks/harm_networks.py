"""The networks of `tests.benchmarks.harm`: many kinds, as people write them, each with a task that suits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks import harm_networks_other as other
from tests.benchmarks import harm_networks_residual as residual
from tests.benchmarks import harm_networks_sequence as sequence
from tests.benchmarks.harm_tasks import (
    Task,
    classes,
    density,
    field,
    pairs,
    reconstruction,
    regression,
    sequences,
    several,
    tokens,
)

VECTORS = classes(32)
IMAGES = classes(3, 8, 8)


@dataclass(frozen=True)
class Network:
    """One kind of network.

    Attributes:
        make: draws it.
        task: what it is to learn.
    """

    make: Callable[[], nn.Module]
    task: Task


class Maxout(nn.Module):
    """The larger of two linear maps."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.both = nn.Linear(inputs, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, -1)
        return torch.maximum(a, b)


class RMS(nn.Module):
    """Root mean square normalisation, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.scale


class StandardisedConv(nn.Conv2d):
    """A convolution whose filters have mean zero and variance one over the fan in."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        mean = w.mean((1, 2, 3), keepdim=True)
        variance = w.var((1, 2, 3), keepdim=True, unbiased=False)
        w = (w - mean) / torch.sqrt(variance * w[0].numel() + 1e-6)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


def orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight, 2**0.5)


INITIALISERS: dict[str, Callable[[Tensor], object]] = {
    "xavier": nn.init.xavier_uniform_,
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "he_out": partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
    "lecun": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "orthogonal": orthogonal,
    "n001": partial(nn.init.normal_, std=0.01),
    "n1": nn.init.normal_,
}


def initialised(net: nn.Module, init: str) -> nn.Module:
    """Weights by an initialiser and biases zero, or everything as PyTorch draws it ("default")."""
    if init != "default":
        for part in net.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                INITIALISERS[init](part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
    return net


def mlp(
    depth: int,
    act: Callable[[], nn.Module],
    init: str = "default",
    *,
    width: int = 48,
    norm: Callable[[int], nn.Module] | None = None,
    after: bool = False,
    dropout: float = 0.0,
    outputs: int = 10,
) -> nn.Module:
    """A chain of linear layers and activations with a normalisation before or after the activation."""
    layers: list[nn.Module] = []
    for index in range(depth - 1):
        layers.append(nn.Linear(32 if index == 0 else width, width))
        layers += [act()] if norm is None else [act(), norm(width)] if after else [norm(width), act()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return initialised(nn.Sequential(*layers, nn.Linear(width, outputs)), init)


def cnn(
    depth: int,
    act: Callable[[], nn.Module],
    init: str = "default",
    *,
    width: int = 24,
    norm: Callable[[int], nn.Module] | None = None,
    after: bool = False,
    conv: Callable[..., nn.Module] = nn.Conv2d,
    pool: str = "mean",
    bias: bool = True,
) -> nn.Module:
    """Convolutions of one width and a linear head behind a mean over positions, or on all of them ("flatten"), or with
    maxima in between ("max")."""
    layers: list[nn.Module] = []
    for index in range(depth - 1):
        layers.append(conv(3 if index == 0 else width, width, 3, padding=1, bias=bias))
        layers += [act()] if norm is None else [act(), norm(width)] if after else [norm(width), act()]
        if pool == "max" and index in (1, 3):
            layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten()] if pool == "flatten" else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return initialised(nn.Sequential(*layers, nn.Linear(width * (64 if pool == "flatten" else 1), 10)), init)


def weight_norm_conv(*arguments: int, **options: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(*arguments, **options))  # type: ignore[arg-type]


def spectral_norm_mlp(depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for index in range(depth - 1):
        layers += [nn.utils.parametrizations.spectral_norm(nn.Linear(32 if index == 0 else 48, 48)), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Linear(48, 10))


def maxout(depth: int) -> nn.Module:
    return nn.Sequential(*[Maxout(32 if k == 0 else 48, 48) for k in range(depth)], nn.Linear(48, 10))


def frozen_backbone() -> nn.Module:
    """A trained-looking backbone that takes no gradient, and a fresh head."""
    backbone = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
        parameter.requires_grad_(False)
    return nn.Sequential(backbone, nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def _chains() -> dict[str, Network]:
    plain = {
        "mlp_relu_default_20": mlp_of(20, nn.ReLU),
        "mlp_leaky_xavier_10": mlp_of(10, partial(nn.LeakyReLU, 0.2), "xavier"),
        "mlp_elu_he_out_12": mlp_of(12, nn.ELU, "he_out"),
        "mlp_selu_lecun_30": mlp_of(30, nn.SELU, "lecun"),
        "mlp_gelu_orthogonal_16": mlp_of(16, nn.GELU, "orthogonal"),
        "mlp_silu_default_24": mlp_of(24, nn.SiLU),
        "mlp_mish_he_8": mlp_of(8, nn.Mish, "he"),
        "mlp_hardswish_xavier_10": mlp_of(10, nn.Hardswish, "xavier"),
        "mlp_softplus_default_6": mlp_of(6, nn.Softplus),
        "mlp_tanh_default_40": mlp_of(40, nn.Tanh),
        "mlp_tanh_orthogonal_30": mlp_of(30, nn.Tanh, "orthogonal"),
        "mlp_sigmoid_xavier_4": mlp_of(4, nn.Sigmoid, "xavier"),
        "mlp_prelu_default_12": mlp_of(12, nn.PReLU),
        "mlp_relu6_he_16": mlp_of(16, nn.ReLU6, "he"),
        "mlp_softsign_lecun_10": mlp_of(10, nn.Softsign, "lecun"),
        "mlp_relu_n001_5": mlp_of(5, nn.ReLU, "n001"),
        "mlp_tanh_n1_6": mlp_of(6, nn.Tanh, "n1"),
        "mlp_relu_he_3": mlp_of(3, nn.ReLU, "he"),
        "mlp_ln_gelu_12": mlp_of(12, nn.GELU, norm=nn.LayerNorm),
        "mlp_rms_silu_12": mlp_of(12, nn.SiLU, norm=RMS),
        "mlp_bn_relu_30": mlp_of(30, nn.ReLU, norm=nn.BatchNorm1d, width=32),
        "mlp_bn_after_sigmoid_6": mlp_of(6, nn.Sigmoid, norm=nn.BatchNorm1d, after=True),
        "mlp_bn_tanh_dropout_8": mlp_of(8, nn.Tanh, norm=nn.BatchNorm1d, dropout=0.1),
        "mlp_relu_dropout_6": mlp_of(6, nn.ReLU, dropout=0.2),
    }
    convolutional = {
        "cnn_relu_default_8": cnn_of(8, nn.ReLU),
        "cnn_elu_he_flatten_10": cnn_of(10, nn.ELU, "he", width=16, pool="flatten"),
        "cnn_gelu_default_12": cnn_of(12, nn.GELU),
        "cnn_leaky_max_default_6": cnn_of(6, nn.LeakyReLU, pool="max"),
        "cnn_silu_xavier_14": cnn_of(14, nn.SiLU, "xavier"),
        "cnn_tanh_he_out_8": cnn_of(8, nn.Tanh, "he_out"),
        "cnn_bn_relu_10": cnn_of(10, nn.ReLU, norm=nn.BatchNorm2d),
        "cnn_bn_after_relu_8": cnn_of(8, nn.ReLU, norm=nn.BatchNorm2d, after=True, bias=False),
        "cnn_gn_silu_8": cnn_of(8, nn.SiLU, norm=partial(nn.GroupNorm, 4)),
        "cnn_in_relu_8": cnn_of(8, nn.ReLU, norm=partial(nn.InstanceNorm2d, affine=True)),
        "cnn_weight_norm_relu_10": cnn_of(10, nn.ReLU, conv=weight_norm_conv),
        "cnn_standardised_gn_8": cnn_of(8, nn.ReLU, norm=partial(nn.GroupNorm, 4), conv=StandardisedConv),
        "cnn_standardised_6": cnn_of(6, nn.ReLU, conv=StandardisedConv),
    }
    rest = {
        "mlp_spectral_norm_10": Network(partial(spectral_norm_mlp, 10), VECTORS),
        "maxout_5": Network(partial(maxout, 5), VECTORS),
        "frozen_backbone": Network(frozen_backbone, VECTORS),
    }
    return plain | convolutional | rest


def mlp_of(depth: int, act: Callable[[], nn.Module], init: str = "default", **options: object) -> Network:
    return Network(partial(mlp, depth, act, init, **options), VECTORS)  # type: ignore[arg-type]


def cnn_of(depth: int, act: Callable[[], nn.Module], init: str = "default", **options: object) -> Network:
    return Network(partial(cnn, depth, act, init, **options), IMAGES)  # type: ignore[arg-type]


def _residual() -> dict[str, Network]:
    made = residual
    return {
        "res_pre_bn_12": Network(partial(made.ConvNet, partial(made.PreActivation, nn.BatchNorm2d), 12), IMAGES),
        "res_post_bn_8": Network(partial(made.ConvNet, made.PostActivation, 8), IMAGES),
        "res_zero_gamma_8": Network(partial(made.ConvNet, partial(made.PostActivation, zero=True), 8), IMAGES),
        "res_no_norm_16": Network(partial(made.ConvNet, made.Plain, 16), IMAGES),
        "res_fixup_10": Network(partial(made.ConvNet, partial(made.Fixup, 10), 10), IMAGES),
        "res_skipinit_10": Network(partial(made.ConvNet, made.SkipInit, 10), IMAGES),
        "res_halved_12": Network(partial(made.ConvNet, made.Halved, 12), IMAGES),
        "res_gn_6": Network(partial(made.ConvNet, partial(made.PreActivation, partial(nn.GroupNorm, 4)), 6), IMAGES),
        "res_grouped_6": Network(partial(made.ConvNet, partial(made.Grouped, 4), 6), IMAGES),
        "res_inverted_5": Network(partial(made.ConvNet, made.Inverted, 5), IMAGES),
        "res_inverted_no_norm_5": Network(partial(made.ConvNet, partial(made.Inverted, norm=False), 5), IMAGES),
        "res_squeeze_5": Network(partial(made.ConvNet, made.Squeezed, 5), IMAGES),
        "res_convnext_6": Network(partial(made.ConvNet, partial(made.ConvNeXt, 1e-6), 6), IMAGES),
        "res_mlp_he_24": Network(partial(made.VectorNet, partial(made.VectorBlock, "he"), 24), VECTORS),
        "res_mlp_default_30": Network(partial(made.VectorNet, partial(made.VectorBlock, "default"), 30), VECTORS),
        "res_shared_12": Network(partial(made.Shared, 12), VECTORS),
        "res_shared_tanh_12": Network(partial(made.Shared, 12, nn.Tanh), VECTORS),
        "rezero_16": Network(partial(made.VectorNet, made.ReZero, 16), VECTORS),
        "layer_scale_12": Network(partial(made.VectorNet, partial(made.LayerScale, 1e-4), 12), VECTORS),
        "highway_12": Network(partial(made.VectorNet, made.Highway, 12), VECTORS),
        "densenet_8": Network(partial(made.DenseNet, 8, norm=True), IMAGES),
        "densenet_no_norm_8": Network(partial(made.DenseNet, 8, norm=False), IMAGES),
        "unet": Network(partial(made.UNet, norm=False), reconstruction(1, 8, 8)),
        "unet_bn": Network(partial(made.UNet, norm=True), reconstruction(1, 8, 8)),
        "lora": Network(made.Lora, VECTORS),
    }


def _sequence() -> dict[str, Network]:
    made = sequence
    words = tokens()
    return {
        "vit_pre_norm_4": Network(partial(made.Vit, 4), IMAGES),
        "gpt_4": Network(partial(made.Gpt, 4), words),
        "gpt_tied_3": Network(partial(made.Gpt, 3, tied=True), words),
        "post_norm_6": Network(partial(made.PostNorm, 6), words),
        "torch_encoder_3": Network(partial(made.TorchEncoder, 3, first=False), words),
        "torch_encoder_pre_3": Network(partial(made.TorchEncoder, 3, first=True), words),
        "albert_8": Network(partial(made.Albert, 8), words),
        "no_norm_attention_4": Network(partial(made.Vit, 4, norm=False), IMAGES),
        "dit_adaln_zero_3": Network(partial(made.DiT, 3), reconstruction(1, 8, 8)),
        "mlp_mixer_4": Network(partial(made.Mixer, 4), IMAGES),
        "glu_stack_8": Network(partial(made.Glu, 8), VECTORS),
        "moe_dense_4": Network(partial(made.Mixture, 4), VECTORS),
        "lstm": Network(partial(made.Recurrent, nn.LSTM), sequences()),
        "gru_2": Network(partial(made.Recurrent, nn.GRU, layers=2), sequences()),
        "rnn_tanh": Network(partial(made.Recurrent, nn.RNN), sequences()),
        "rnn_cell_unrolled": Network(made.Unrolled, sequences()),
        "conv_lstm": Network(made.ConvLstm, several(classes(4, 3, 8, 8))),
        "tcn_dilated_5": Network(partial(made.Dilated, 5), sequences()),
        "wavenet_gated_4": Network(partial(made.Wavenet, 4), sequences()),
    }


def _other() -> dict[str, Network]:
    made = other
    return {
        "autoencoder_mlp": Network(made.autoencoder, reconstruction(32)),
        "autoencoder_tied": Network(made.TiedAutoencoder, reconstruction(32)),
        "autoencoder_conv": Network(made.conv_autoencoder, reconstruction(1, 8, 8)),
        "gcn_5": Network(partial(made.Gcn, 5), classes(12, 16, count=6)),
        "gin_4": Network(partial(made.Gin, 4), classes(12, 16, count=6)),
        "gat_3": Network(partial(made.Gat, 3), classes(12, 16, count=6)),
        "deep_sets_sum": Network(made.DeepSets, sequences()),
        "siamese": Network(made.Siamese, pairs()),
        "two_heads": Network(made.TwoHeads, several(VECTORS)),
        "kan_3": Network(partial(made.Kan, 3), regression(8)),
        "realnvp_4": Network(partial(made.RealNvp, 4), density()),
        "nerf": Network(made.Nerf, field(3, 4)),
        "siren_5": Network(partial(made.Siren, 5), field(2, 1)),
        "fourier_relu": Network(made.fourier, field(2, 1)),
        "pinn_tanh_6": Network(partial(made.pinn, 6), field(2, 1)),
        "made": Network(made.Made, reconstruction(12)),
        "dueling": Network(made.Dueling, regression(8)),
        "actor": Network(made.actor, regression(8)),
        "film": Network(made.Film, IMAGES),
        "multi_scale_branches": Network(made.inception, IMAGES),
        "factored_bottleneck": Network(made.factored, VECTORS),
        "deep_linear_10": Network(partial(made.deep_linear, 10), VECTORS),
        "embedding_bag_mean": Network(made.WordMean, tokens()),
        "upsampling_transposed": Network(made.upsampling, reconstruction(1, 8, 8)),
    }


def networks() -> dict[str, Network]:
    """All of them, by name."""
    return _chains() | _residual() | _sequence() | _other()
