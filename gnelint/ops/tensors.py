"""What joins paths, chooses entries, moves data or sums it. Operands broadcast as in numpy; the output's shape is the
value's."""

from __future__ import annotations

from functools import reduce

from gnelint.ops.record import Joined, OnnxForm, Operation, TorchForm

_PAIR = ("self", "other")
_TOP = {"axis": -1, "k": ..., "largest": True}
_OVER_AXES = {"axes": ..., "keepdims": True}
_COPIES = ("clone", "alias", "contiguous", "to", "_to_copy", "type_as", "lift_fresh_copy", "view_of",
           "resolve_conj", "resolve_neg", "positive")  # fmt: skip
_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as",
          "_reshape_alias", "view_copy", "squeeze_copy", "unsqueeze_copy")  # fmt: skip

RECORDS = (
    Operation("add", "combine", "The sum.", ("x*",), function=Joined(lambda xp, *xs: sum(xs[1:], xs[0]))),
    Operation("sub", "combine", "a - b.", ("a", "b"), function=Joined(lambda xp, a, b: a - b)),
    Operation("mul", "combine", "a b.", ("a", "b"), function=Joined(lambda xp, a, b: a * b)),
    Operation("div", "combine", "a / b.", ("a", "b"), function=Joined(lambda xp, a, b: a / b)),
    Operation("mean", "combine", "The mean of the operands.", ("x*",), onnx=(OnnxForm("Mean", inputs=None),),
              function=Joined(lambda xp, *xs: sum(xs[1:], xs[0]) / len(xs))),
    Operation("maximum", "combine", "The largest of the operands.", ("x*",),
              function=Joined(lambda xp, *xs: reduce(xp.maximum, xs)),
              torch=(TorchForm("maximum", inputs=_PAIR), TorchForm("max.other", inputs=_PAIR))),
    Operation("minimum", "combine", "The smallest of the operands.", ("x*",),
              function=Joined(lambda xp, *xs: reduce(xp.minimum, xs)),
              torch=(TorchForm("minimum", inputs=_PAIR), TorchForm("min.other", inputs=_PAIR))),
    # added: under the root
    Operation("hypot", "combine", "The Euclidean length of the operands, entry by entry.", ("x*",),
              attributes={"added": 0.0},
              function=Joined(lambda xp, *xs, added: xp.sqrt(sum((x * x for x in xs), xp.asarray(added)))),
              torch=(TorchForm("hypot", inputs=_PAIR),)),
    Operation("concat", "combine", "The operands one after the other.", ("x*",), attributes={"axis": ...}),
    Operation("where", "combine", "a where the condition holds, else b.", ("condition", "a", "b"),
              function=Joined(lambda xp, condition, a, b: xp.where(condition, a, b)),
              onnx=(OnnxForm("Where", inputs=3),),
              torch=(TorchForm("where", inputs=("condition", *_PAIR)),
                     TorchForm("masked_fill", inputs=("mask", "value", "self")))),
    Operation("constant", "combine", "A tensor of the model: a class token, a mask.", (), ("value",)),
    Operation("top_k", "selection", "The k largest, or smallest, of a row, and their indices.", attributes=_TOP),
    Operation("top_mask", "selection", "Where the k largest, or smallest, of a row stand; hidden: where not.",
              attributes={**_TOP, "hidden": False}),
    Operation("one_hot", "selection", "Classes on a new axis.", ("indices",), attributes={"axis": -1}),
    Operation("compare", "selection", "a < b, a <= b, a > b or a >= b.", ("a", "b"), attributes={"kind": ...}),
    Operation("logical", "selection", "Masks joined by not, and, or, xor.", ("x*",), attributes={"kind": ...}),
    Operation("scatter", "selection", "updates over entries of x, one for each index along the axis.",
              ("x", "indices", "updates"), attributes={"axis": ...}),
    # x + (f(x) - x).detach() is written so that the gradient passes f by
    Operation("stop_gradient", "selection", "x, and no gradient passes (detach, no_grad)."),
    Operation("straight_through", "selection", "The first value with the gradient of the second.", ("value", "x")),
    Operation("identity", "shape", "x, in another type perhaps.", function=Joined(lambda xp, x: x),
              onnx=tuple(map(OnnxForm, ("Identity", "Cast", "CastLike"))), torch=tuple(map(TorchForm, _COPIES))),
    # one that divides by 1 - p is neutral in the analysis; not inverted it is a mask that removes a share p, with one
    # number for all indices of the axes `alike`
    Operation("dropout", "shape", "Entries set to 0 at random.",
              attributes={"p": 0.5, "inverted": True, "alike": (), "alpha": False}),
    Operation("reshape", "shape", "Another shape.", torch=tuple(map(TorchForm, _VIEWS))),
    Operation("transpose", "shape", "Axes in another order.", attributes={"perm": ...}),
    Operation("slice", "shape", "start:end:step along axes.",
              attributes={"axes": ..., "starts": ..., "ends": ..., "steps": ...}),
    Operation("split", "shape", "Parts along an axis.", attributes={"axis": ..., "sizes": ...}),
    # along: the indices have x's axes, and each entry of the others picks its own
    Operation("gather", "shape", "Entries along an axis; indices are a parameter where they are constant.",
              ("x", "indices?"), ("indices",), {"axis": 0, "along": False}),
    Operation("pad", "shape", "Padding, given over all axes.",
              attributes={"pads": ..., "mode": "constant", "value": 0.0}),
    # where an output's centre lies: half_pixel, align_corners or asymmetric; cubic: the coefficient of that kernel
    Operation("upsample", "shape", "nearest, linear or cubic interpolation, by the value's shape.",
              attributes={"mode": "nearest", "coordinates": "half_pixel", "antialias": False, "cubic": -0.75}),
    Operation("expand", "shape", "Broadcasting as in numpy.", onnx=(OnnxForm("Expand"),)),
    Operation("tile", "shape", "Repetition along axes.", onnx=(OnnxForm("Tile"),),
              torch=(TorchForm("repeat"), TorchForm("tile"))),
    Operation("roll", "shape", "Circular shifts.", attributes={"axes": ..., "shifts": ...}),
    Operation("flip", "shape", "Axes reversed.", attributes={"axes": ...}),
    Operation("depth_to_space", "shape", "Blocks of channels side by side.", attributes={"block": ..., "mode": "DCR"},
              onnx=(OnnxForm("DepthToSpace", attributes={"block": "blocksize", "mode": "mode"}),),
              torch=(TorchForm("pixel_shuffle", {"block": "upscale_factor"}, {"mode": "CRD"}),)),
    Operation("space_to_depth", "shape", "Its inverse.", attributes={"block": ...},
              onnx=(OnnxForm("SpaceToDepth", attributes={"block": "blocksize"}),),
              torch=(TorchForm("pixel_unshuffle", {"block": "downscale_factor"}),)),
    Operation("reduce_mean", "reduction", "The mean over axes.", attributes=_OVER_AXES),
    Operation("reduce_sum", "reduction", "The sum over axes.", attributes=_OVER_AXES),
    Operation("reduce_max", "reduction", "The largest along axes.", attributes=_OVER_AXES),
    Operation("reduce_min", "reduction", "The smallest along axes.", attributes=_OVER_AXES),
    # exposed: written out as the root of a sum of squares, whose derivative at 0 is infinite
    Operation("reduce_l2", "reduction", "The Euclidean norm along axes.", attributes={**_OVER_AXES, "exposed": False}),
    Operation("cumsum", "reduction", "Sums of all entries up to one.",
              attributes={"axis": ..., "reverse": False, "exclusive": False}),
)  # fmt: skip
