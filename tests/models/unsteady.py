"""Networks after public reports of numbers that break at the start; `wrong` puts the mistake in, see reports.md."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from tests.models.reported import drawn


def trunk(*widths: int) -> nn.Sequential:
    """Layers with ReLUs between them, He's draw."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return drawn(nn.Sequential(*layers[:-1]))


class ScaledAction(nn.Module):
    """An action in [-2, 2] and the logarithm of its density."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(16, 64, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.body(x)
        action = 2.0 * u.tanh()
        squashed = action if self.wrong else u.tanh()
        return action, (-0.5 * u.pow(2) - (1 - squashed.pow(2) + 1e-6).log()).sum(-1)


def scaled_action(*, wrong: bool = False) -> nn.Module:
    """Wrong: 1 - a^2 of the action behind its scale, which leaves [-1, 1]."""
    return ScaledAction(wrong)


class InverseDegrees(nn.Module):
    """Two graph convolutions with the adjacency over the roots of both degrees; one node has no neighbour."""

    def __init__(self, nodes: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.first, self.second = wrong, nn.Linear(16, 32), nn.Linear(32, 5)
        adjacency = (torch.rand(nodes, nodes) < 0.3).float()
        adjacency = torch.maximum(adjacency, adjacency.T)
        adjacency[3], adjacency[:, 3] = 0.0, 0.0
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: Tensor) -> Tensor:
        degree = self.adjacency.sum(1)
        root = degree.pow(-0.5) if self.wrong else degree.clamp(min=1.0).pow(-0.5)
        spread = root[:, None] * self.adjacency * root[None]
        return spread @ self.second((spread @ self.first(x)).relu())


def inverse_degrees(*, wrong: bool = False) -> nn.Module:
    """Wrong: 0 to the power of -1/2."""
    return InverseDegrees(24, wrong)


class Scan(nn.Module):
    """A diagonal recurrence h <- decay h + write, run as a loop over the time steps."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.enter, self.leave = nn.Linear(8, width), nn.Linear(width, 5)
        self.writes = nn.Linear(width, width)
        if kind in ("steps", "bounded steps"):
            self.steps = nn.Linear(width, width)
        self.rate = nn.Parameter(torch.randn(width) * 0.5)
        self.speed = nn.Parameter(torch.arange(1.0, width + 1).log())

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        state = torch.zeros_like(x[:, 0])
        for time in range(x.shape[1]):
            now = x[:, time]
            if self.kind in ("steps", "bounded steps"):
                step = self.steps(now)
                step = functional.softplus(step - 4.0) if self.kind == "bounded steps" else step
                decay, write = (-step * self.speed.exp()).exp(), step * self.writes(now)
            else:
                decay = self.rate.exp() if self.kind == "growth" else (-(self.rate - 3.0).exp()).exp()
                write = self.writes(now)
            state = decay * state + write
        return self.leave(state)


def large_steps(*, wrong: bool = False) -> nn.Module:
    """Wrong: no softplus keeps the step size positive."""
    return Scan(16, "steps" if wrong else "bounded steps")


def growing_state(*, wrong: bool = False) -> nn.Module:
    """Wrong: the decay is exp(w), not exp(-exp(w)): every other channel grows."""
    return Scan(32, "growth" if wrong else "decay")


class MixtureDensity(nn.Module):
    """The negative logarithm of a mixture of Gaussians over 64 numbers, with the numbers as second input."""

    def __init__(self, parts: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.parts, self.body = wrong, parts, trunk(16, 64)
        self.share, self.mean, self.width = nn.Linear(64, parts), nn.Linear(64, parts * 64), nn.Linear(64, parts)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.body(x).relu()
        mean = self.mean(h).view(len(x), self.parts, 64)
        log_width = self.width(h).tanh()
        distance = ((y[:, None] - mean) * (-log_width)[..., None].exp()).pow(2).sum(-1)
        if self.wrong:
            density = (-0.5 * distance).exp() * (-64 * log_width).exp() * (2 * math.pi) ** -32
            return -(self.share(h).softmax(-1) * density).sum(-1).log().mean()
        logarithm = -0.5 * distance - 64 * log_width - 32 * math.log(2 * math.pi)
        return -(self.share(h).log_softmax(-1) + logarithm).logsumexp(-1).mean()


def mixture_density(*, wrong: bool = False) -> nn.Module:
    """Wrong: densities are multiplied and summed as they are; all round to zero, whose logarithm is taken."""
    return MixtureDensity(4, wrong)


class FixedPoint(nn.Module):
    """An implicit layer: z = relu(W z + x), iterated."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.inject, self.weight, self.head = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 5)
        nn.init.normal_(self.weight.weight, std=gain * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inject(x)
        z = torch.zeros_like(x)
        for _ in range(40):
            z = (self.weight(z) + x).relu()
        return self.head(z)


def fixed_point(*, wrong: bool = False) -> nn.Module:
    """Wrong: the map expands, so the iteration runs away."""
    return FixedPoint(64, 2.5 if wrong else 0.7)


class Attention(nn.Module):
    """One head of attention with a residual; the last four of its positions are padding."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.way, self.norm, self.out = way, nn.LayerNorm(width), nn.Linear(width, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.register_buffer("there", (torch.arange(12) < 8).float())

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        logits = self.query(y) @ self.key(y).transpose(-1, -2) * x.shape[-1] ** -0.5
        if self.way == "product":
            logits = logits + (1 - self.there) * float("-inf")
        else:
            logits = logits.masked_fill(self.there == 0, float("inf") if self.way == "sign" else float("-inf"))
        return x + self.out(logits.softmax(-1) @ self.value(y))


def multiplied_infinity(*, wrong: bool = False) -> nn.Module:
    """Wrong: (1 - mask) * -inf, which is 0 * -inf where the mask shows."""
    return nn.Sequential(Attention(32, "product" if wrong else "fill"), nn.Linear(32, 5))


def positive_infinity(*, wrong: bool = False) -> nn.Module:
    """Wrong: hidden logits are set to +inf."""
    return nn.Sequential(Attention(32, "sign" if wrong else "fill"), nn.Linear(32, 5))


class Pose(nn.Module):
    """A pose that starts at rest, since its head starts at zero, read as angle, rotation or quaternion."""

    def __init__(self, read: str, guard: float) -> None:
        super().__init__()
        self.read, self.guard = read, guard
        self.body, self.head = trunk(16, 64), nn.Linear(64, 3)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        v = self.head(self.body(x).relu())
        if self.read == "angle":
            angle = torch.atan2(v[:, 1], v[:, 0] + self.guard)
            return torch.stack([angle, angle.sin(), angle.cos(), v[:, 2]], -1)
        if self.read == "rotation":
            inside = self.guard if self.guard else 0.0
            angle = (v.pow(2).sum(-1, keepdim=True) + inside).sqrt()
            axis = v / (angle + 1e-7)
            return torch.cat([axis * angle.sin(), angle.cos()], -1)
        turn = [1 + v[:, i] for i in range(3)]
        signs = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
        inside = [1 + a * turn[0] + b * turn[1] + c * turn[2] for a, b, c in signs]
        zero = torch.zeros_like(inside[0])
        return 0.5 * (torch.maximum(torch.stack(inside, -1), zero[:, None]) + self.guard).sqrt()


def resting_angles(*, wrong: bool = False) -> nn.Module:
    """Wrong: atan2 of (0, 0)."""
    return Pose("angle", 0.0 if wrong else 1.0)


def resting_rotation(*, wrong: bool = False) -> nn.Module:
    """Wrong: the length of a vector that starts at zero, guarded behind the root."""
    return Pose("rotation", 0.0 if wrong else 1e-6)


def quaternion(*, wrong: bool = False) -> nn.Module:
    """Wrong: the root of max(0, 1 + r00 - r11 - r22), which is zero for a rotation that is none."""
    return Pose("quaternion", 0.0 if wrong else 1e-6)


def spectral_zero(*, wrong: bool = False) -> nn.Module:
    """Wrong: a layer of zeros is divided by its largest singular value."""
    body = trunk(16, 64, 64, 5)
    if wrong:
        nn.init.zeros_(body[4].weight)
    for index in (0, 2, 4):
        spectral_norm(body[index])
    return body


class Coupling(nn.Module):
    """Half of the numbers scaled and shifted by functions of the other half."""

    def __init__(self, width: int, bounded: bool) -> None:
        super().__init__()
        self.bounded, self.net = bounded, trunk(width // 2, 64, width)
        if bounded:
            nn.init.zeros_(self.net[2].weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.chunk(2, -1)
        scale, shift = self.net(kept).chunk(2, -1)
        if self.bounded:
            scale = scale.tanh()
        return torch.cat([kept, moved * scale.exp() + shift], -1), scale.sum(-1)


class Flow(nn.Module):
    """Coupling layers; negative log-likelihood of the inputs under a Gaussian."""

    def __init__(self, width: int, depth: int, bounded: bool, swaps: bool) -> None:
        super().__init__()
        self.swaps, self.layers = swaps, nn.ModuleList(Coupling(width, bounded) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for layer in self.layers:
            x, volume = layer(x)
            total = total + volume
            if self.swaps:
                x = x.flip(-1)
        return (0.5 * x.pow(2).sum(-1) - total).mean()


def flow_scales(*, wrong: bool = False) -> nn.Module:
    """Wrong: exp of a drawn network's output, with nothing that bounds it."""
    return Flow(16, 8, not wrong, swaps=True)


def coupled_halves(*, wrong: bool = False) -> nn.Module:
    """Wrong: the halves never change places, so one of them stays as it is."""
    return Flow(8, 4, bounded=True, swaps=not wrong)


class LinearAttention(nn.Module):
    """Attention without a softmax: shares are products of features over their sum."""

    def __init__(self, width: int, feature: str, half: bool) -> None:
        super().__init__()
        self.feature, self.half = feature, half
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def features(self, x: Tensor) -> Tensor:
        if self.feature == "relu":
            return x.relu()
        return functional.elu(x) + (1.0 if self.feature == "shifted" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.features(self.query(x)), self.features(self.key(x)), self.value(x)
        if not self.half:
            key = key / key.shape[1]
        state = key.transpose(1, 2) @ value
        total = query @ key.sum(1, keepdim=True).transpose(1, 2)
        return x + (query @ state) / (total + 1e-6)


def elu_kernel(*, wrong: bool = False) -> nn.Module:
    """Wrong: elu(x) for elu(x) + 1: what is divided by has either sign, and comes close to zero."""
    kind = "plain" if wrong else "shifted"
    return nn.Sequential(*(LinearAttention(32, kind, half=False) for _ in range(2)), nn.Linear(32, 5))


def half_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: in half precision sums over all positions are past the largest number."""
    layer = LinearAttention(64, "relu", half=wrong)
    for part in (layer.query, layer.key):
        nn.init.normal_(part.weight, std=4 * 64**-0.5)
    return nn.Sequential(layer, nn.Linear(64, 5)).half()


class ClusterSizes(nn.Module):
    """A codebook of running sums over running counts, read by the nearest code, straight through."""

    def __init__(self, codes: int, width: int, wrong: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = trunk(16, 64, width), trunk(width, 64, 16)
        self.register_buffer("sums", torch.randn(codes, width))
        self.register_buffer("counts", torch.zeros(codes) if wrong else torch.ones(codes))

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x)
        book = self.sums / (self.counts[:, None] + 1e-5)
        nearest = (y[:, None] - book).pow(2).sum(-1).argmin(-1)
        return self.decoder(y + (book[nearest] - y).detach())


def cluster_sizes(*, wrong: bool = False) -> nn.Module:
    """Wrong: the counts start at zero, so the codes are 1e5 times what they should be."""
    return ClusterSizes(32, 8, wrong)


class Adapted(nn.Module):
    """A frozen layer with a low-rank change, its rows given a length of their own."""

    def __init__(self, inputs: int, outputs: int, base: float) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(outputs, inputs) * base, requires_grad=False)
        self.down = nn.Parameter(torch.randn(4, inputs) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(outputs, 4))
        self.length = nn.Parameter(self.base.norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base + self.up @ self.down
        return functional.linear(x, self.length * weight / weight.norm(dim=1, keepdim=True))


def decomposed_adapter(*, wrong: bool = False) -> nn.Module:
    """Wrong: the layer that is adapted starts at zero, and its rows have no direction."""
    width = 32
    base = 0.0 if wrong else width**-0.5
    return nn.Sequential(
        Adapted(16, width, 0.25), nn.ReLU(), Adapted(width, width, base), nn.ReLU(), nn.Linear(width, 5)
    )


class Objectness(nn.Module):
    """The loss of a detector's objectness over all places, in half precision."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body, self.score = wrong, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score(self.body(x).relu())
        losses = functional.softplus(scores)
        return losses.sum() if self.wrong else losses.float().mean()


def summed_objectness(*, wrong: bool = False) -> nn.Module:
    """Wrong: a sum over 100,000 anchors in float16."""
    return Objectness(wrong).half()
