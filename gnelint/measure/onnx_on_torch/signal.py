"""Fourier transforms, windows and the mel scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

# --- Fourier transforms -------------------------------------------------------------------------------------------
# A complex tensor is a real one whose last axis holds the real and the imaginary part; of length 1 it is real.


@operator("DFT")
def dft_along_attribute(call: Call, x: Tensor, length: Tensor | None = None) -> Tensor:
    """The discrete Fourier transform, or its inverse, along the axis that is an attribute."""
    return _dft(call, x, length, call.get("axis"))


@operator("DFT", since=20)
def dft(call: Call, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """The discrete Fourier transform, or its inverse, along the axis that is an input."""
    return _dft(call, x, length, -2 if axis is None else int(axis.item()))


@operator("STFT")
def stft(
    call: Call, signal: Tensor, step: Tensor, window: Tensor | None = None, frame_length: Tensor | None = None
) -> Tensor:
    """The Fourier transforms of the signal's frames, which start `step` apart and are weighted by the window."""
    z = _from_parts(signal)
    size = _frame_size(z, window, frame_length)
    frames = z.unfold(1, size, int(step.item()))
    if window is not None:
        frames = frames * window.to(frames.real.dtype)
    if not call.get("onesided"):
        return _to_parts(torch.fft.fft(frames), signal.dtype)
    if frames.is_complex():
        raise CannotRunError("one side of the spectrum of a complex signal")
    return _to_parts(torch.fft.rfft(frames), signal.dtype)


def _dft(call: Call, x: Tensor, length: Tensor | None, axis: int) -> Tensor:
    axis = axis + x.dim() if axis < 0 else axis
    if not 0 <= axis < x.dim() - 1:
        raise CannotRunError(f"a transform along axis {axis} of {x.dim()}")
    z = _from_parts(x)
    n = None if length is None else int(length.item())
    if not call.get("onesided"):
        transform = torch.fft.ifft if call.get("inverse") else torch.fft.fft
        return _to_parts(transform(z, n, axis), x.dtype)
    if call.get("inverse"):
        return torch.fft.irfft(z, n, axis).unsqueeze(-1).to(x.dtype)
    if z.is_complex():
        raise CannotRunError("one side of the spectrum of a complex signal")
    return _to_parts(torch.fft.rfft(z, n, axis), x.dtype)


def _frame_size(signal: Tensor, window: Tensor | None, frame_length: Tensor | None) -> int:
    if frame_length is not None:
        size = int(frame_length.item())
        if window is not None and window.shape[0] != size:
            raise CannotRunError(f"a window of {window.shape[0]} for frames of {size}")
        return size
    return int(signal.shape[1] if window is None else window.shape[0])


def _from_parts(x: Tensor) -> Tensor:
    """The signal itself, in a type that torch has Fourier transforms for."""
    if x.shape[-1] not in (1, 2):
        raise CannotRunError(f"{x.shape[-1]} parts of a complex number")
    wide = x.float() if x.element_size() == 2 else x
    if wide.shape[-1] == 1:
        return wide.squeeze(-1)
    return torch.complex(wide[..., 0], wide[..., 1])


def _to_parts(z: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.view_as_real(z.resolve_conj()).to(dtype)


# --- windows ------------------------------------------------------------------------------------------------------


@operator("HannWindow")
def hann_window(call: Call, size: Tensor) -> Tensor:
    """1/2 - 1/2 cos(2 pi n / N)."""
    return _window(call, size, (0.5, 0.5))


@operator("HammingWindow")
def hamming_window(call: Call, size: Tensor) -> Tensor:
    """25/46 - 21/46 cos(2 pi n / N)."""
    return _window(call, size, (25 / 46, 21 / 46))


@operator("BlackmanWindow")
def blackman_window(call: Call, size: Tensor) -> Tensor:
    """0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N)."""
    return _window(call, size, (0.42, 0.5, 0.08))


def _window(call: Call, size: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """A sum of cosines with alternating signs over N entries, N - 1 for one that is not periodic."""
    length = int(size.item())
    angle = 2 * math.pi * torch.arange(length, dtype=torch.float64) / (length if call.get("periodic") else length - 1)
    terms = [(-1) ** order * factor * torch.cos(order * angle) for order, factor in enumerate(coefficients)]
    return torch.stack(terms).sum(0).to(call.device, call.dtype(call.get("output_datatype")))


# --- the mel scale ------------------------------------------------------------------------------------------------


@operator("MelWeightMatrix")
def mel_weight_matrix(
    call: Call, bins: Tensor, dft_length: Tensor, sample_rate: Tensor, lower_edge: Tensor, upper_edge: Tensor
) -> Tensor:
    """For each mel bin a triangle over the frequencies of a spectrum; the bins divide the band evenly in mel."""
    length = int(dft_length.item())
    low, high = (2595 * math.log10(1 + float(edge.item()) / 700) for edge in (lower_edge, upper_edge))
    count = int(bins.item())
    step = (high - low) / (count + 2)
    hertz = 700 * (10 ** ((low + step * torch.arange(count + 2, dtype=torch.float64)) / 2595) - 1)
    corners = torch.floor((length + 1) * hertz / int(sample_rate.item()))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    frequencies = torch.arange(length // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rising = torch.where(centre > left, (frequencies - left) / (centre - left), (frequencies == centre).double())
    falling = (right - frequencies) / (right - centre)
    up = (frequencies >= left) & (frequencies <= centre)
    down = (frequencies >= centre) & (frequencies < right)
    zero = torch.zeros((), dtype=torch.float64)
    triangles = torch.where(down, falling, torch.where(up, rising, zero))
    return triangles.to(call.device, call.dtype(call.get("output_datatype")))
