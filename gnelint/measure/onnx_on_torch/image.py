"""Operators on images: sampling at given places, regions, boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.sampling import cubic_taps, linear_taps, place_type, read_taps
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

_SAMPLING_MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""Names of opset 16 in terms of opset 20."""


@operator("GridSample", since=16)
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """Reads x (N, C, *sizes) at the places of grid (N, *lengths, axes), where -1 and 1 are the borders."""
    mode = _SAMPLING_MODES.get(call.get("mode"), call.get("mode"))
    padding, align = call.get("padding_mode"), bool(call.get("align_corners"))
    if mode not in ("nearest", "linear", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise CannotRunError(f'mode "{mode}" with padding_mode "{padding}"')
    sizes, grid = x.shape[2:], grid.to(place_type(grid.dtype))
    taps = []
    for axis, size in enumerate(sizes):
        normalized = grid[..., len(sizes) - 1 - axis].flatten(1)
        place = (normalized + 1) / 2 * (size - 1) if align else ((normalized + 1) * size - 1) / 2
        if mode == "cubic":  # as runtimes have it, the entries are put inside, not the place
            taps.append(cubic_taps(place))
        elif mode == "linear":
            taps.append(linear_taps(_inside(place, size, padding, align)))
        else:
            place = _inside(place.round(), size, padding, align)
            taps.append([(place.round(), torch.ones_like(place))])
    y = read_taps(x, taps, None if padding == "zeros" else lambda at, axis: _entry(at, sizes[axis], padding, align))
    return y.reshape(*x.shape[:2], *grid.shape[1:-1])


def _inside(place: Tensor, size: int, padding: str, align: bool) -> Tensor:
    """Places beyond the borders, put inside."""
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    beyond = (place < low) | (place > high)
    if padding == "border":
        return torch.where(beyond, place.clamp(0, size - 1), place)
    if padding == "reflection":
        return torch.where(beyond, _reflected(place, low, high), place)
    return place


def _entry(index: Tensor, size: int, padding: str, align: bool) -> Tensor:
    """Indices of entries beyond the borders, put inside."""
    if padding == "border":
        return index.clamp(0, size - 1)
    return _inside(index, size, padding, align).trunc()


def _reflected(place: Tensor, low: float, high: float) -> Tensor:
    """Places reflected at the borders until they lie between them."""
    if high == low:
        return torch.full_like(place, low)
    distance = (place - low).abs()
    turns = (distance / (high - low)).floor()
    rest = distance - turns * (high - low)
    return torch.where(turns % 2 == 0, low + rest, high - rest)


@operator("AffineGrid", since=20)
def affine_grid(call: Call, theta: Tensor, size: Tensor) -> Tensor:
    """theta (x, y[, z], 1) for the places of an image of this size, each from -1 to 1."""
    lengths = size.tolist()[2:]
    grid = torch.ones(*lengths, len(lengths) + 1, dtype=theta.dtype, device=theta.device)
    for axis, length in enumerate(lengths):
        steps = torch.arange(length, dtype=theta.dtype, device=theta.device)
        if call.get("align_corners"):
            along = 2 * steps / (length - 1) - 1 if length > 1 else torch.zeros_like(steps)
        else:
            along = (2 * steps + 1) / length - 1
        grid[..., len(lengths) - 1 - axis] = along.reshape(-1, *[1] * (len(lengths) - 1 - axis))
    return (grid.flatten(0, -2) @ theta.transpose(1, 2)).reshape(len(theta), *lengths, len(lengths))


@operator("RoiAlign", since=10)
def roi_align(call: Call, x: Tensor, rois: Tensor, batch_indices: Tensor) -> Tensor:
    """Each region (x1, y1, x2, y2) in bins: the mean, or the maximum, of x at a regular grid of places in the bin."""
    mode, pooled = call.get("mode"), (call.get("output_height"), call.get("output_width"))
    if mode not in ("avg", "max"):
        raise CannotRunError(f'mode "{mode}"')
    half_pixel = call.get("coordinate_transformation_mode", "output_half_pixel") == "half_pixel"
    rois = rois.to(place_type(rois.dtype))
    corners = rois.flip(1) * call.get("spatial_scale") - (0.5 if half_pixel else 0.0)  # y2, x2, y1, x1
    starts, extents = corners[:, 2:], corners[:, :2] - corners[:, 2:]
    if not half_pixel:
        extents = extents.clamp(min=1)
    bins = extents / torch.tensor(pooled, dtype=rois.dtype, device=rois.device)
    ratio = call.get("sampling_ratio")
    counts = torch.full_like(bins, ratio) if ratio > 0 else bins.ceil().clamp(min=0)
    kinds, kind = counts.to(torch.int64).unique(dim=0, return_inverse=True)
    members = [torch.nonzero(kind == number).flatten() for number in range(len(kinds))]
    parts = [
        _aligned(x, starts[rows], bins[rows], batch_indices[rows], pooled, (down, across), mode)
        for rows, (down, across) in zip(members, kinds.tolist(), strict=True)
    ]
    if not parts:
        return x.new_zeros(0, x.shape[1], *pooled)
    return torch.cat(parts).index_select(0, torch.cat(members).argsort())


def _aligned(
    x: Tensor, starts: Tensor, bins: Tensor, images: Tensor, pooled: tuple[int, int], counts: tuple[int, int], mode: str
) -> Tensor:
    """Regions whose bins are all read at the same number of places."""
    regions, channels = len(starts), x.shape[1]
    if 0 in counts:
        return x.new_zeros(regions, channels, *pooled)
    (top, bottom, up, down), (left, right, west, east) = (
        _neighbours(starts[:, axis], bins[:, axis], pooled[axis], counts[axis], x.shape[2 + axis]) for axis in (0, 1)
    )
    entries = x.permute(0, 2, 3, 1).flatten(0, 2)
    rows = images.to(torch.int64).reshape(-1, 1, 1) * x.shape[2]

    def read(row: Tensor, column: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
        flat = (rows + row.unsqueeze(2)) * x.shape[3] + column.unsqueeze(1)
        weight = vertical.unsqueeze(2) * horizontal.unsqueeze(1)
        return entries.index_select(0, flat.flatten()) * weight.reshape(-1, 1).to(x.dtype)

    corners = [
        read(top, left, up, west), read(top, right, up, east), read(bottom, left, down, west),
        read(bottom, right, down, east),
    ]  # fmt: skip
    shape = (regions, pooled[0], counts[0], pooled[1], counts[1], channels)
    if mode == "avg":
        y = (corners[0] + corners[1] + corners[2] + corners[3]).reshape(shape).mean((2, 4))
    else:  # runtimes take the maximum over the weighted corners, not over their sums
        y = torch.stack(corners).amax(0).reshape(shape).amax((2, 4))
    return y.permute(0, 3, 1, 2)


def _neighbours(
    starts: Tensor, bins: Tensor, pooled: int, count: int, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis, the entries before and behind each place of each region, and their weights."""
    offsets = torch.arange(pooled * count, device=starts.device).to(starts.dtype)
    places = starts.unsqueeze(1) + (offsets + 0.5) / count * bins.unsqueeze(1)
    inside = ((places >= -1) & (places <= size)).to(places.dtype)
    places = places.clamp(0, size - 1)
    low = places.floor()
    share = places - low
    before = low.to(torch.int64).clamp(0, size - 1)  # a place that is no number reads some entry
    return before, (before + 1).clamp(max=size - 1), (1 - share) * inside, share * inside


@operator("NonMaxSuppression", since=10)
def non_max_suppression(
    call: Call,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    iou_threshold: Tensor | None = None,
    score_threshold: Tensor | None = None,
) -> Tensor:
    """(image, class, box) of the boxes kept: by falling score, those that overlap none kept before by too much."""
    limit = int(most.reshape(())) if most is not None and most.numel() else 0
    overlap = float(iou_threshold.reshape(())) if iou_threshold is not None and iou_threshold.numel() else 0.0
    corners = _corners(boxes, centred=bool(call.get("center_point_box")))
    found: list[tuple[int, int, int]] = []
    for image, of_image in enumerate(scores):
        for label, of_class in enumerate(of_image):
            order = of_class.argsort(descending=True, stable=True)
            if score_threshold is not None and score_threshold.numel():
                order = order[of_class[order] > score_threshold.reshape(())]
            found += [(image, label, box) for box in _kept(corners[image], order, limit, overlap)]
    return torch.tensor(found, dtype=torch.int64, device=scores.device).reshape(-1, 3)


def _corners(boxes: Tensor, centred: bool) -> Tensor:
    """Boxes as (least y, least x, greatest y, greatest x); which axis is which does not matter to overlaps."""
    if centred:
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat([centre - half, centre + half], -1)
    return torch.cat([torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])], -1)


def _kept(boxes: Tensor, order: Tensor, limit: int, threshold: float) -> list[int]:
    """Of boxes in this order, those that overlap none kept before by more than the threshold."""
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[~(_overlap(boxes[best], boxes[order]) > threshold)]
    return kept


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union; 0 with a box of no area."""
    edges = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    common = edges.prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    area = (box[2:] - box[:2]).prod()
    valid = (areas > 0) & (area > 0)
    return torch.where(valid, common / (areas + area - common), torch.zeros_like(common))
