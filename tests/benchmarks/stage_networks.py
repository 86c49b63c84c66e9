"""Small networks of many kinds, fresh and trained, for the benchmark of what tells one from the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES, FEATURES, SIDE, TOKENS = 10, 32, 8, 6
BATCH = 64
SEQUENCES = ("transformer", "recurrent")


@dataclass(frozen=True)
class Design:
    """One network and how it is trained.

    Attributes:
        kind: mlp, cnn, residual, transformer, recurrent or autoencoder.
        norm: "", batch, layer, group or rms.
        init: default, he_normal, xavier_uniform, truncated, orthogonal, scaled or zero_last.
        optimizer: sgd, adam or adamw (with weight decay 0.05).
        variant: what happens behind the training: "", fp16, bf16, pruned, frozen (a new head on a frozen trained
            body), seen (fresh: some batches went through in training mode), onnx, onnx_train or meta.
    """

    kind: str
    norm: str = ""
    init: str = "default"
    optimizer: str = "adam"
    rate: float = 2e-3
    steps: int = 150
    width: int = 48
    depth: int = 4
    activation: str = "relu"
    bias: bool = True
    seed: int = 0
    variant: str = ""


class Rms(nn.Module):
    """Root mean square normalisation over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def _norm(name: str, width: int, maps: bool = False) -> list[nn.Module]:
    if name == "batch":
        return [nn.BatchNorm2d(width) if maps else nn.BatchNorm1d(width)]
    if name == "group" or (maps and name in ("layer", "rms")):
        return [nn.GroupNorm(4 if width % 4 == 0 else 1, width)]
    return {"": list[nn.Module], "layer": lambda: [nn.LayerNorm(width)], "rms": lambda: [Rms(width)]}[name]()


def _activation(name: str) -> nn.Module:
    return {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}[name]()


class Residual(nn.Module):
    """x + F(norm(x)), F two linear layers."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        width = design.width
        self.branch = nn.Sequential(
            *_norm(design.norm, width),
            nn.Linear(width, 2 * width, design.bias),
            _activation(design.activation),
            nn.Linear(2 * width, width, design.bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Attention(nn.Module):
    """A transformer's block, normalisation first."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        width, norm = design.width, "layer" if design.norm in ("batch", "group") else design.norm
        self.first, self.second = nn.Sequential(*_norm(norm, width)), nn.Sequential(*_norm(norm, width))
        self.packed, self.out = nn.Linear(width, 3 * width, design.bias), nn.Linear(width, width, design.bias)
        self.wide, self.narrow = nn.Linear(width, 4 * width, design.bias), nn.Linear(4 * width, width, design.bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.packed(self.first(x)).chunk(3, -1)
        x = x + self.out(functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))


class Pooled(nn.Module):
    """A sequence network and a head on the mean over positions."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        return self.head((found[0] if isinstance(found, tuple) else found).mean(1))


def built(design: Design) -> nn.Module:
    """The network as it starts."""
    torch.manual_seed(1000 + design.seed)
    module = BUILDERS[design.kind](design)
    initialise(module, design.init)
    return module


def _plain(design: Design, sizes: list[int], last: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, design.bias), *_norm(design.norm, outputs)]
        layers.append(_activation(design.activation))
    return [*layers, nn.Linear(sizes[-1], last, design.bias)]


def _mlp(design: Design) -> nn.Module:
    return nn.Sequential(*_plain(design, [FEATURES] + [design.width] * design.depth, CLASSES))


def _autoencoder(design: Design) -> nn.Module:
    half = [FEATURES] + [design.width] * max(design.depth // 2, 1)
    return nn.Sequential(*_plain(design, [*half, 12, *half[:0:-1]], FEATURES))


def _cnn(design: Design) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for at in range(design.depth):
        stride = 2 if at == 1 else 1
        layers += [nn.Conv2d(channels, design.width, 3, stride, 1, bias=design.bias)]
        layers += [*_norm(design.norm, design.width, maps=True), _activation(design.activation)]
        channels = design.width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES, design.bias))


def _residual(design: Design) -> nn.Module:
    blocks = [Residual(design) for _ in range(design.depth)]
    return nn.Sequential(
        nn.Linear(FEATURES, design.width, design.bias),
        *blocks,
        *_norm(design.norm, design.width),
        nn.Linear(design.width, CLASSES, design.bias),
    )


def _transformer(design: Design) -> nn.Module:
    blocks = [Attention(design) for _ in range(design.depth)]
    body = nn.Sequential(nn.Linear(FEATURES, design.width, design.bias), *blocks)
    return Pooled(body, nn.Linear(design.width, CLASSES, design.bias))


def _recurrent(design: Design) -> nn.Module:
    cell = (nn.LSTM, nn.GRU)[design.seed % 2](
        FEATURES, design.width, min(design.depth, 2), bias=design.bias, batch_first=True
    )
    return Pooled(cell, nn.Linear(design.width, CLASSES, design.bias))


BUILDERS: dict[str, Callable[[Design], nn.Module]] = {
    "mlp": _mlp, "cnn": _cnn, "residual": _residual, "transformer": _transformer, "recurrent": _recurrent,
    "autoencoder": _autoencoder,
}  # fmt: skip


def initialise(module: nn.Module, name: str) -> None:
    """Draw all matrices anew, biases at zero; "default" leaves everything as the constructors made it."""
    if name == "default":
        return
    matrices = [p for p in module.parameters() if p.dim() >= 2]
    for parameter in module.parameters():
        if parameter.dim() >= 2:
            _draw(parameter, name)
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None and name != "scaled":
            nn.init.zeros_(layer.bias)
    if name == "zero_last":
        nn.init.zeros_(matrices[-1])


def _draw(weight: Tensor, name: str) -> None:
    if name in ("he_normal", "zero_last"):
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    elif name == "xavier_uniform":
        nn.init.xavier_uniform_(weight)
    elif name == "truncated":
        std = (1.0 / math.prod(weight.shape[1:])) ** 0.5
        nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)
    elif name == "orthogonal":
        nn.init.orthogonal_(weight)
    else:
        with torch.no_grad():
            weight.mul_(1.7)


def example(design: Design) -> Tensor:
    """Inputs to trace the network with."""
    return batch(design, torch.Generator().manual_seed(1), 4)[0]


def batch(design: Design, generator: torch.Generator, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Inputs near one prototype a class, and the classes; an autoencoder's inputs lie near a space of 6 dimensions."""
    fixed = torch.Generator().manual_seed(design.seed)
    labels = torch.randint(0, CLASSES, (size,), generator=generator)
    if design.kind == "autoencoder":
        basis = torch.randn(6, FEATURES, generator=fixed) / 6**0.5
        x = torch.randn(size, 6, generator=generator) @ basis
        return x, x
    shape = (3, SIDE, SIDE) if design.kind == "cnn" else (TOKENS, FEATURES) if design.kind in SEQUENCES else (FEATURES,)
    prototypes = torch.randn(CLASSES, *shape, generator=fixed)
    return prototypes[labels] + 0.7 * torch.randn(size, *shape, generator=generator), labels


def train(module: nn.Module, design: Design) -> float:
    """Train in place; the share of the task that is done afterwards: accuracy, or explained variance."""
    generator = torch.Generator().manual_seed(7 + design.seed)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer
    if design.optimizer == "sgd":
        optimizer = torch.optim.SGD(trained, design.rate, momentum=0.9)
    elif design.optimizer == "adam":
        optimizer = torch.optim.Adam(trained, design.rate)
    else:
        optimizer = torch.optim.AdamW(trained, design.rate, weight_decay=0.05)
    module.train()
    for _ in range(design.steps):
        x, y = batch(design, generator)
        loss = functional.mse_loss(module(x), y) if y.dim() > 1 else functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _done(module, design, generator)


@torch.no_grad()
def _done(module: nn.Module, design: Design, generator: torch.Generator) -> float:
    module.eval()
    x, y = batch(design, generator, 512)
    found = module(x)
    module.train()
    if y.dim() > 1:
        return 1.0 - float((found - y).square().mean() / y.var())
    return float((found.argmax(1) == y).float().mean())


def changed(module: nn.Module, design: Design) -> float | None:
    """What the variant does to a trained network, in place; the share of a task done once more, if it was trained."""
    if design.variant in ("fp16", "bf16"):
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[design.variant]
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(tensor.to(kind).to(tensor.dtype))
    if design.variant == "pruned":
        with torch.no_grad():
            for weight in (parameter for parameter in module.parameters() if parameter.dim() >= 2):
                weight[weight.abs() < weight.abs().flatten().median()] = 0.0
    if design.variant == "frozen":
        head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        for parameter in head.parameters():
            parameter.requires_grad_(True)
        head.reset_parameters()
        return train(module, replace(design, optimizer="sgd", rate=0.02, steps=100, variant=""))
    return None


def see(module: nn.Module, design: Design, passes: int) -> None:
    """Send batches through a network in training mode; nothing is learned."""
    generator = torch.Generator().manual_seed(3)
    module.train()
    with torch.no_grad():
        for _ in range(passes):
            module(batch(design, generator)[0])


def designs(held_out: bool) -> Iterator[Design]:
    """Designs to develop with, or others: other widths, depths, rates and seeds."""
    kinds = ("mlp", "cnn", "residual", "transformer", "recurrent", "autoencoder")
    norms = ("", "batch", "layer", "group", "rms", "")
    inits = ("default", "he_normal", "xavier_uniform", "truncated", "orthogonal", "scaled", "zero_last")
    ways = (("adam", 2e-3, 150), ("sgd", 0.05, 200), ("adamw", 2e-3, 300), ("adam", 1e-3, 250), ("sgd", 0.02, 600))
    variants = ("", "fp16", "", "bf16", "pruned", "frozen", "onnx", "")
    activations = ("relu", "gelu", "tanh", "silu")
    widths = (12, 64, 8, 128, 24, 512) if held_out else (48, 64, 32, 16, 96)
    depths = (2, 3, 6, 1, 4, 8) if held_out else (4, 2, 3)
    offset = 5000 if held_out else 0
    for index in range(36):
        kind = kinds[index % 6]
        norm = "" if kind == "recurrent" else norms[(index // 6) % 6]
        optimizer, rate, steps = ways[(index // 3 + index) % 5]
        if kind == "autoencoder":
            steps *= 2
        width, depth = widths[(index // 2) % len(widths)], depths[index % len(depths)]
        if width >= 512:
            depth, width = min(depth, 2), (512 if kind in ("mlp", "residual", "recurrent") else 192)
        yield Design(
            kind, norm, inits[(index // 2 + index) % 7], optimizer, rate, steps, width, depth,
            activations[(index // 4) % 4], bias=index % 9 != 4, seed=offset + index,
            variant=variants[(index // 6 + index) % 8],
        )  # fmt: skip
    if held_out:
        yield Design("residual", "layer", "default", "adam", 1e-3, 200, 16, 30, seed=offset + 200)
        yield Design("mlp", "batch", "he_normal", "adam", 1e-3, 200, 24, 20, seed=offset + 201)
        yield Design("residual", "", "zero_last", "adam", 1e-3, 200, 16, 20, seed=offset + 202)
        yield Design("mlp", "", "he_normal", "adamw", 1e-3, 2000, 32, 3, seed=offset + 203)
