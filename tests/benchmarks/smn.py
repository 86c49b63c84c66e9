"""How long second moment normalisation takes beside BatchNorm2d on the shapes of a ResNet-50.

    python -m tests.benchmarks.smn [--device cuda] [--rounds 9] [--types float32 bfloat16] [--quick]

For each of the paper's nine shapes (batch 128, 8 on the CPU), type and layout: forward, backward and both, of
`torch.nn.BatchNorm2d` (on CUDA by cuDNN and by torch's own kernels), of `SecondMomentNorm2d`, and of both with a ReLU
behind, which the layer fuses. The contenders take turns, each call has another of several inputs that together do not
fit the last cache, and the least time of all rounds counts. On the CPU that is the time of one thread by the
processor's clock, which other work on the machine does not stop.

The memory limit is the time that the bytes which must move would take at the bandwidth of a copy, measured in the same
run: 8 bytes an entry forward and 12 backward in single precision. With --device cuda steps of training a ResNet-50
follow: BatchNorm, second moment, second moment with ReLU and shortcut fused.

Printed, and written to reports/benchmarks/smn.json and .md, where results of CPUs and cards stand beside each other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gnelint.nn import SecondMomentNorm2d, backend, convert
from gnelint.nn.kernels import native
from tests.models.resnet import Bottleneck, resnet50

OUT = Path(__file__).resolve().parents[2] / "reports" / "benchmarks" / "smn.json"
SHAPES = [(64, 112), (64, 56), (256, 56), (128, 28), (512, 28), (256, 14), (1024, 14), (512, 7), (2048, 7)]
"""Channels, and positions along one axis."""
CACHE = {"cpu": 64 << 20, "cuda": 256 << 20}
"""Bytes of inputs that are used in turn: more than the last cache holds."""
MANY = 1 << 22
"""Entries below which a shape has more rounds, up to 20 times as many: short times scatter more."""
SAME = "batch normalisation of the same design"
PARTS = ("forward", "backward", "both")
Run = Callable[[Tensor, Tensor], dict[str, float]]


class NormReLU(nn.Module):
    """A batch normalisation and the ReLU behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.norm(x))


class _SameDesign(torch.autograd.Function):
    """Batch normalisation from the primitives that second moment normalisation is made of: one sum more forward, and
    shifts that cost no pass. Its variance is a difference, which cancels where the mean is large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        count = native.per_channel(x)
        mean = x.sum((0, 2, 3), dtype=torch.float32) / count
        inverse = (native.squares(x) / count - mean.square() + eps).rsqrt()
        factor = weight * inverse
        ctx.save_for_backward(x, mean, inverse, factor)
        return native.affine(x, factor, bias - mean * factor)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, factor = ctx.saved_tensors
        total, product, scaled = native.dots(dy, x, factor)
        by_weight = (product - mean * total) * inverse
        count = native.per_channel(x)
        pull = factor * inverse * by_weight / count
        dx = native.combined(dy, x, factor, pull, scaled)
        dx += (pull * mean - factor * total / count).to(x.dtype)[:, None, None]
        return dx, by_weight, total, None


class SameDesign(nn.BatchNorm2d):
    """`_SameDesign` with the running statistics left out."""

    def forward(self, x: Tensor) -> Tensor:
        return _SameDesign.apply(x, self.weight, self.bias, self.eps)


def contenders(channels: int, device: str) -> dict[str, tuple[nn.Module, bool]]:
    """Layers by name, each with whether cuDNN may be used."""
    found = {
        "BatchNorm2d": (nn.BatchNorm2d(channels), False),
        "second moment": (SecondMomentNorm2d(channels), False),
        "BatchNorm2d, ReLU": (NormReLU(channels), False),
        "second moment with ReLU": (SecondMomentNorm2d(channels, relu=True), False),
    }
    if device == "cpu":
        found[SAME] = (SameDesign(channels), False)
    else:
        found["BatchNorm2d by cuDNN"] = (nn.BatchNorm2d(channels), True)
        found["BatchNorm2d by cuDNN, ReLU"] = (NormReLU(channels), True)
    return {name: (layer.to(device), flag) for name, (layer, flag) in found.items()}


@contextlib.contextmanager
def cudnn(enabled: bool) -> Iterator[None]:
    """Whether torch may hand batch normalisation to cuDNN."""
    with torch.backends.cudnn.flags(enabled=enabled, benchmark=False):
        yield


class Clock:
    """Seconds on a device: events on a card, one thread's processor time on a CPU."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, work: Sequence[Callable[[], Any]]) -> list[float]:
        """Seconds of each piece of work, one behind the other."""
        if self.device == "cpu":
            times = [time.process_time()]
            for piece in work:
                piece()
                times.append(time.process_time())
            return [after - before for before, after in pairwise(times)]
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(work) + 1)]
        events[0].record()
        for piece, event in zip(work, events[1:], strict=True):
            piece()
            event.record()
        torch.cuda.synchronize()
        return [first.elapsed_time(second) / 1e3 for first, second in pairwise(events)]


def step(layer: nn.Module, x: Tensor, dy: Tensor, clock: Clock) -> tuple[float, float]:
    """Seconds of a forward and a backward pass."""
    held: list[Tensor] = []
    return tuple(clock([lambda: held.append(layer(x)), lambda: held[0].backward(dy)]))  # type: ignore[return-value]


def measured(shape: tuple[int, ...], kind: torch.dtype, last: bool, device: str, rounds: int) -> dict[str, Any]:
    """The least seconds of each contender."""
    clock, layers = Clock(device), contenders(shape[1], device)
    layout = torch.channels_last if last else torch.contiguous_format
    size = math.prod(shape) * kind.itemsize
    copies = max(2, -(-CACHE[device] // (2 * size)))

    def drawn() -> Tensor:
        return torch.randn(shape, device=device, dtype=torch.float32).to(kind).to(memory_format=layout)

    pool = [(drawn().requires_grad_(), drawn()) for _ in range(min(copies, 64))]
    best = {name: dict.fromkeys(PARTS, math.inf) for name in layers}
    rounds *= max(1, min(20, MANY // math.prod(shape)))
    for index in range(rounds + 1):
        for name, (layer, flag) in layers.items():
            x, dy = pool[(index * len(layers) + len(name)) % len(pool)]
            x.grad = None
            with cudnn(flag):
                forward, backward = step(layer, x, dy, clock)
            if index:
                seconds = {"forward": forward, "backward": backward, "both": forward + backward}
                best[name] = {part: min(best[name][part], seconds[part]) for part in PARTS}
    return {"shape": list(shape), "type": str(kind).removeprefix("torch."), "channels_last": last, "seconds": best}


def bandwidth(device: str) -> float:
    """Bytes a second that a copy reads and writes, of tensors of 98 MiB."""
    source = torch.randn(98 << 18, device=device)
    target = torch.empty_like(source)
    seconds = min(Clock(device)([lambda: target.copy_(source)] * 12)[1:])
    return 2 * source.numel() * source.element_size() / seconds


class FusedBottleneck(Bottleneck):
    """A bottleneck whose normalisations rectify, the last one behind the shortcut's addition."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return self.bn3(self.conv3(y), self.downsample(x))


def fused(network: nn.Module) -> nn.Module:
    """A ResNet-50 with second moment normalisation, with ReLU and shortcut in it."""
    convert(network, "batchnorm->smn")
    for part in network.modules():
        if isinstance(part, Bottleneck):
            part.__class__ = FusedBottleneck
            for norm in (part.bn1, part.bn2, part.bn3):
                norm.relu = True
    return network


def training_steps(device: str, batch: int, rounds: int) -> dict[str, float]:
    """Least seconds of a step of training a ResNet-50 in bfloat16 autocast, channels last."""
    made: dict[str, Callable[[nn.Module], nn.Module]] = {
        "BatchNorm2d": lambda network: network,
        "second moment": lambda network: convert(network, "batchnorm->smn"),
        "second moment with ReLU": fused,
    }
    x = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    labels, clock, found = torch.randint(0, 1000, (batch,), device=device), Clock(device), {}
    for name, change in made.items():
        network = change(resnet50()).to(device, memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(network.parameters(), 0.01)

        def once(network: nn.Module = network, optimiser: Any = optimiser) -> None:
            with torch.autocast(device, torch.bfloat16):
                loss = nn.functional.cross_entropy(network(x), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        found[name] = min(clock([once] * (rounds + 2))[2:])
        del network, optimiser
    return found


def ratio(row: dict[str, Any], theirs: str, ours: str = "second moment", part: str = "both") -> float:
    """Their time over ours."""
    return row["seconds"][theirs][part] / row["seconds"][ours][part]


def geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def limit(row: dict[str, Any], bytes_a_second: float) -> float:
    """Share of the memory limit that second moment normalisation reaches, forward and backward."""
    size = {"float32": 4, "float64": 8}.get(row["type"], 2)
    return 5 * size * math.prod(row["shape"]) / bytes_a_second / row["seconds"]["second moment"]["both"]


def markdown(results: dict[str, Any]) -> str:
    """All devices, each with its tables."""
    lines = ["# Second moment normalisation beside BatchNorm2d", "", "`python -m tests.benchmarks.smn [--device cuda]`"]
    for name, result in results.items():
        lines += ["", f"## {name}", "", f"{result['what']}. A copy moves {result['copy'] / 1e9:.1f} GB/s."]
        others = [key for key in result["rows"][0]["seconds"] if key.startswith("BatchNorm2d") and "ReLU" not in key]
        groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
        for row in result["rows"]:
            groups.setdefault((row["type"], row["channels_last"]), []).append(row)
        for (kind, last), rows in groups.items():
            lines += ["", f"### {kind}, {'channels last' if last else 'contiguous'}", ""]
            lines += ["Milliseconds forward + backward; ratios are BatchNorm2d's time over ours, the lesser one's.", ""]
            heads = ["shape", "second moment", *others, "ratio", "forward", "backward", "with ReLU", "of the limit"]
            lines.append(f"| {' | '.join(heads)} |")
            lines.append("|---|--:|" + "--:|" * (len(others) + 5))
            for row in rows:
                lines.append("| " + " | ".join(_cells(row, others, result["copy"])) + " |")
            means = [geometric([min(ratio(row, key, part=part) for key in others) for row in rows]) for part in
                     ("both", "forward", "backward")]  # fmt: skip
            relu = geometric([_with_relu(row, others) for row in rows])
            cells = ["geometric mean", "", *("" for _ in others), *(f"{mean:.2f}" for mean in means), f"{relu:.2f}", ""]
            lines.append("| " + " | ".join(cells) + " |")
            if SAME in rows[0]["seconds"]:
                same = geometric([ratio(row, SAME) for row in rows])
                lines += ["", f"A {SAME}, from the same primitives, takes {same:.2f} times our time."]
        if result.get("steps"):
            lines += ["", "A training step of a ResNet-50, bfloat16 autocast, channels last:", ""]
            lines += [f"- {key}: {1e3 * seconds:.1f} ms" for key, seconds in result["steps"].items()]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any], others: Sequence[str], copy: float) -> list[str]:
    times = [f"{1e3 * row['seconds'][key]['both']:.2f}" for key in ("second moment", *others)]
    ratios = [min(ratio(row, key, part=part) for key in others) for part in ("both", "forward", "backward")]
    shares = [f"{_with_relu(row, others):.2f}", f"{limit(row, copy):.0%}"]
    return ["x".join(map(str, row["shape"])), times[0], *times[1:], *(f"{value:.2f}" for value in ratios), *shares]


def _with_relu(row: dict[str, Any], others: Sequence[str]) -> float:
    return min(ratio(row, f"{key}, ReLU", "second moment with ReLU") for key in others)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, help="samples (128 on a card, 8 on the CPU)")
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true", help="contiguous inputs only, no training steps")
    parser.add_argument("-o", "--output", type=Path, default=OUT)
    options = parser.parse_args()
    device: str = options.device
    batch = options.batch or (128 if device == "cuda" else 8)
    if device == "cpu":
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name(0) if device == "cuda" else f"CPU ({platform.machine()}, one thread)"
    copy = bandwidth(device)
    rows = []
    for kind in options.types:
        for last in (False,) if options.quick else (False, True):
            for channels, side in SHAPES:
                row = measured((batch, channels, side, side), getattr(torch, kind), last, device, options.rounds)
                rows.append(row)
                print(f"{kind:9s} {'last' if last else 'first':5s} {row['shape']!s:22s} "
                      f"{1e3 * row['seconds']['second moment']['both']:8.2f} ms  "
                      f"{ratio(row, 'BatchNorm2d'):.2f} of BatchNorm2d", flush=True)  # fmt: skip
    steps = {} if options.quick or device == "cpu" else training_steps(device, 64, options.rounds)
    what = f"torch {torch.__version__}, backend {backend(device)}, batch {batch}"
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    results[name] = {"what": what, "copy": copy, "rows": rows, "steps": steps}
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(markdown(results))
    print(markdown({name: results[name]}))


if __name__ == "__main__":
    main()
