"""Recurrent layers: RNN, GRU and LSTM, in plain torch operations so that forward-mode derivatives exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator
from gnelint.records import dataclass
from gnelint.words import plural

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]
"""From a step's share of the input, all gates beside each other, and the last state to the next state, h first."""

_PLAIN: dict[str, Activation] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": functional.softsign,
    "softplus": functional.softplus,
}
_SCALED: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "leakyrelu": lambda x, alpha, beta: functional.leaky_relu(x, alpha),
    "thresholdedrelu": lambda x, alpha, beta: torch.where(x > alpha, x, torch.zeros_like(x)),
    "scaledtanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "hardsigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0.0, 1.0),
    "elu": lambda x, alpha, beta: functional.elu(x, alpha),
}
_ALPHA = {"affine": None, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": None, "hardsigmoid": 0.2, "elu": 1.0}
_BETA = {"affine": None, "scaledtanh": None, "hardsigmoid": 0.5}
"""What functions take where the model says nothing: as the operators of that name; None where there is no such."""


@dataclass(frozen=True)
class _Direction:
    """One direction's weights and functions.

    Attributes:
        w, r: of the input and of the state, (gates * hidden, ...).
        wb, rb: their biases.
        p: peepholes of an LSTM.
        activations: in the operator's order.
    """

    w: Tensor
    r: Tensor
    wb: Tensor
    rb: Tensor
    p: Tensor | None
    activations: Sequence[Activation]


@operator("RNN")
def rnn(call: Call, *operands: Tensor | None) -> State:
    """h_t = f(x_t W^T + h_{t-1} R^T + b)."""
    return _run(call, operands, ("Tanh",), _rnn_step)


def _rnn_step(call: Call, part: _Direction) -> Step:
    clip, (f,) = _clip(call), part.activations
    return lambda xt, state: (f(clip(xt + state[0] @ part.r.T + part.rb)),)


@operator("GRU")
def gru(call: Call, *operands: Tensor | None) -> State:
    """h_t = (1 - z) n + z h_{t-1}, with gates z, r and the candidate n."""
    return _run(call, operands, ("Sigmoid", "Tanh"), _gru_step)


def _gru_step(call: Call, part: _Direction) -> Step:
    clip, reset_after = _clip(call), bool(call.get("linear_before_reset", 0))
    f, g = part.activations
    size = part.r.shape[1]
    gates_r, candidate_r = part.r[: 2 * size].T, part.r[2 * size :].T
    gates_b, candidate_b = part.rb[: 2 * size], part.rb[2 * size :]

    def step(xt: Tensor, state: State) -> State:
        (last,) = state
        x_gates, x_candidate = xt.split([2 * size, size], -1)
        update, reset = f(clip(x_gates + last @ gates_r + gates_b)).chunk(2, -1)
        if reset_after:
            recurrent = reset * (last @ candidate_r + candidate_b)
        else:
            recurrent = (reset * last) @ candidate_r + candidate_b
        candidate = g(clip(x_candidate + recurrent))
        return ((1 - update) * candidate + update * last,)

    return step


@operator("LSTM")
def lstm(call: Call, *operands: Tensor | None) -> State:
    """c_t = f c_{t-1} + i g, h_t = o h(c_t), with gates i, o, f and the candidate g."""
    return run_lstm(call, operands, lambda state: state)


def run_lstm(call: Call, operands: Sequence[Tensor | None], read: Activation) -> State:
    """An LSTM whose products see `read` of h."""
    return _run(call, operands, ("Sigmoid", "Tanh", "Tanh"), lambda call, part: _lstm_step(call, part, read), states=2)


def _lstm_step(call: Call, part: _Direction, read: Activation) -> Step:
    clip, coupled = _clip(call), bool(call.get("input_forget", 0))  # coupled: the forget gate is 1 - i
    f, g, h = part.activations
    peep_i, peep_o, peep_f = (None, None, None) if part.p is None else part.p.chunk(3)

    def gate(value: Tensor, peephole: Tensor | None, cell: Tensor) -> Tensor:
        return f(clip(value if peephole is None else value + peephole * cell))

    def step(xt: Tensor, state: State) -> State:
        last, cell = state
        x_i, x_o, x_f, x_c = (xt + read(last) @ part.r.T + part.rb).chunk(4, -1)
        into = gate(x_i, peep_i, cell)
        keep = 1 - into if coupled else gate(x_f, peep_f, cell)
        cell = keep * cell + into * g(clip(x_c))
        return gate(x_o, peep_o, cell) * h(cell), cell  # h is not clipped in ONNX Runtime

    return step


def _directions(
    call: Call, w: Tensor, r: Tensor, b: Tensor | None, p: Tensor | None, defaults: tuple[str, ...]
) -> list[_Direction]:
    count, direction = w.shape[0], call.get("direction", "forward")
    if count != (2 if direction == "bidirectional" else 1):
        raise CannotRunError(f'weights of {plural(count, "direction")} for "{direction}"')
    functions = _activations(call, defaults * count)
    each = len(defaults)
    parts = []
    for number in range(count):
        wb, rb = w.new_zeros((2, w.shape[1])) if b is None else b[number].chunk(2)
        own = functions[number * each : (number + 1) * each]
        parts.append(_Direction(w[number], r[number], wb, rb, None if p is None else p[number], own))
    return parts


def _activations(call: Call, defaults: tuple[str, ...]) -> list[Activation]:
    """The functions of all directions; alpha and beta are consumed by those that take them, in order."""
    given = call.get("activations") if "activations" in call.attributes else None  # RNN's default has one too many
    names = [name.lower() for name in given or defaults]
    if len(names) != len(defaults):
        raise CannotRunError(f"{len(names)} activations where {len(defaults)} belong")
    alphas, betas = iter(call.get("activation_alpha") or ()), iter(call.get("activation_beta") or ())
    return [_activation(name, alphas, betas) for name in names]


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    if name in _PLAIN:
        return _PLAIN[name]
    if name not in _SCALED:
        raise CannotRunError(f'activation "{name}"')
    alpha = next(alphas, _ALPHA[name])
    beta = next(betas, _BETA[name]) if name in _BETA else 0.0
    if alpha is None or beta is None:
        raise CannotRunError(f'activation "{name}" without its alpha or beta')
    return lambda x: _SCALED[name](x, alpha, beta)


def _clip(call: Call) -> Activation:
    """Bounds what goes into an activation, if the operator says so."""
    bound = call.get("clip")
    return (lambda x: x.clamp(-bound, bound)) if bound else (lambda x: x)


def _run(
    call: Call,
    operands: Sequence[Tensor | None],
    activations: tuple[str, ...],
    step_of: Callable[[Call, _Direction], Step],
    states: int = 1,
) -> State:
    """h of all steps, then the last state, laid out as the operator asks.

    Args:
        operands: x, W, R, B, lengths, h, and of an LSTM c and P; the last ones may be missing.
        activations: the functions of one direction where the model names none.
        step_of: makes the step of a direction.
        states: how many the cell has.
    """
    given: list[Tensor | None] = [*operands, *[None] * (8 - len(operands))]
    x, w, r, b, lengths, h, c, p = given
    if x is None or w is None or r is None:
        raise CannotRunError("an input or its weights are left out")
    parts = _directions(call, w, r, b, p, activations)
    initial = [h, c][:states]
    batch_first = bool(call.get("layout", 0))
    if batch_first:
        x = x.transpose(0, 1)
        initial = [None if state is None else state.transpose(0, 1) for state in initial]
    backward = [False, True] if len(parts) == 2 else [call.get("direction", "forward") == "reverse"]
    if lengths is not None and bool((lengths < 1).any()):
        raise CannotRunError("an empty sequence")  # its state is not defined
    ended = None if lengths is None else torch.arange(x.shape[0], device=x.device)[:, None] >= lengths
    outputs, lasts = [], []
    for number, (part, back) in enumerate(zip(parts, backward, strict=True)):
        zeros = x.new_zeros((x.shape[1], part.r.shape[1]))
        state = tuple(zeros if given is None else given[number] for given in initial)
        output, last = _one_way(x @ part.w.T + part.wb, step_of(call, part), state, ended, back)
        outputs.append(output)
        lasts.append(last)
    y = torch.stack(outputs, 1)
    finals = [torch.stack(each) for each in zip(*lasts, strict=True)]
    if batch_first:
        return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in finals)
    return y, *finals


def _one_way(x: Tensor, step: Step, state: State, ended: Tensor | None, backward: bool) -> tuple[Tensor, State]:
    """h of all steps and the last state; after a sequence's end h is 0 and the state stays."""
    outputs: list[Tensor] = []
    order = range(x.shape[0])
    for index in reversed(order) if backward else order:
        new = step(x[index], state)
        output = new[0]
        if ended is not None:
            over = ended[index][:, None]
            output = torch.where(over, torch.zeros_like(output), output)
            new = tuple(torch.where(over, old, value) for old, value in zip(state, new, strict=True))
        outputs.append(output)
        state = new
    if not outputs:
        return state[0].new_zeros((0, *state[0].shape)), state
    return torch.stack(outputs[::-1] if backward else outputs), state
