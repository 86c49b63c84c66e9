"""Checkpoints laid over modules, in every form; and nothing but tensors is unpickled."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gnelint.errors import ModelError
from gnelint.readers.target import resolve
from gnelint.readers.torch import checkpoint
from gnelint.readers.torch.checkpoint import lay_over
from gnelint.readers.torch.target import load_python

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, 2)
    def forward(self, x):
        y = self.last(self.norm(self.first(x)))
        return y * self.table if hasattr(self, "table") else y
"""


def _safetensors(path: Path, state: dict[str, Tensor]) -> None:
    """The file as its format says."""
    types = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    entries, data = {}, b""
    for name, tensor in state.items():
        raw = tensor.contiguous().numpy().tobytes()
        entries[name] = {
            "dtype": types[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    head = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    return tmp_path


def _net() -> nn.Module:
    scope: dict[str, object] = {}
    exec(SOURCE, scope)
    made = scope["Net"]()  # type: ignore[operator]
    assert isinstance(made, nn.Module)
    return made


def _write(form: str, place: Path, state: dict[str, Tensor]) -> Path:
    if form == "safetensors":
        _safetensors(place / "w.safetensors", state)
        return place / "w.safetensors"
    if form == "sharded":
        names = list(state)
        parts = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
        for file, own in parts.items():
            _safetensors(place / file, {name: state[name] for name in own})
        weights = {name: file for file, own in parts.items() for name in own}
        (place / "w.index.json").write_text(json.dumps({"weight_map": weights}))
        return place / "w.index.json"
    wrapped = {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    legacy = form == "old pickle"
    forms = {"training loop": wrapped, "under a name": {"step": 3, "average": state, "last": {"loss": torch.zeros(1)}}}
    torch.save(forms.get(form, state), place / "w.pt", _use_new_zipfile_serialization=not legacy)
    return place / "w.pt"


@pytest.mark.parametrize("form", ["safetensors", "sharded", "pickle", "old pickle", "training loop", "under a name"])
def test_the_module_holds_the_checkpoint_s_numbers(form: str, place: Path) -> None:
    torch.manual_seed(1)
    state = {name: tensor * 3 for name, tensor in _net().state_dict().items()}
    (target,) = resolve(f"{place}/net.py:Net")
    loaded = load_python(replace(target, weights=_write(form, place, state)))
    assert isinstance(loaded.found, nn.Module)
    found = loaded.found.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert loaded.notes[0].startswith(f"{len(state)} tensors are those of ")
    graph = loaded.trace(training=True).graph
    first = next(node for node in graph.nodes if node.name == "first").parameters["weight"]
    assert torch.equal(torch.from_numpy(first.array()), state["first.weight"])
    assert first.provenance == "data"


def test_what_was_read_leaves_the_memory_and_comes_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_RESIDENT", 64)
    state = _net().state_dict()
    (target,) = resolve(f"{place}/net.py:Net")
    graph = load_python(replace(target, weights=_write("safetensors", place, state))).trace(training=True).graph
    parameters = {parameter.name: parameter for node in graph.nodes for parameter in node.parameters.values()}
    arrays = {name: parameter.array() for name, parameter in parameters.items()}  # each read drops the one before
    assert set(state) - {"norm.num_batches_tracked"} == set(arrays)
    assert all(torch.equal(torch.from_numpy(array), state[name]) for name, array in arrays.items())


def test_missing_and_left_over_names_are_said(place: Path) -> None:
    net = _net()
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "last.bias"}
    notes = lay_over(net, _write("safetensors", place, {**state, "head.weight": torch.zeros(2)}), "net").notes
    assert "1 names of the module are not in" in notes[1]
    assert notes[1].endswith(": last.bias")
    assert notes[2].endswith(": head.weight")


def test_half_precision_is_kept(place: Path) -> None:
    net = _net()
    state = {name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    lay_over(net, _write("safetensors", place, state), "net")
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float16}


def test_without_numbers_initialisers_stand_for_them(place: Path) -> None:
    (place / "net.py").write_text(
        SOURCE.replace("super().__init__()\n", "super().__init__()\n        " + TABLE + "\n", 1)
    )
    (target,) = resolve(f"{place}/net.py:Net")
    loaded = load_python(replace(target, meta=True))
    assert isinstance(loaded.found, nn.Module)
    assert all(p.is_meta for name, p in loaded.found.named_parameters() if name.endswith("weight"))
    graph = loaded.trace(training=True).graph
    first = next(node for node in graph.nodes if node.name == "first").parameters["weight"]
    assert first.provenance == "initializer"
    assert 0.1 < float(first.array().std()) < 0.5  # uniform within 1/2
    table = next(node for node in graph.nodes if node.op == "scale").parameters["scale"]
    assert (table.provenance, table.array().tolist()) == ("data", [0.0, 1.0])


TABLE = 'self.register_buffer("table", __import__("torch").arange(2.0))'


class Net(nn.Module):
    """A module that a pickle could hold."""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pt", "there is no file"),
        (
            "module.pt",
            "holds more than tensors, such as a pickled module, which is code and is not run. Save model.state",
        ),
        ("number.pt", "holds no state dict"),
        ("text.pt", "is no checkpoint that torch can load"),
        ("cut.safetensors", "is no safetensors file, or only a part of one"),
        ("wide.pt", r"first.weight has shape \(8, 4\) in .* and \(4, 4\) in the module"),
        ("other.pt", "no name of .* is one of the module's"),
        ("bad.index.json", "is no index of a sharded checkpoint"),
        ("out.index.json", "points outside of its directory"),
    ],
)
def test_what_cannot_be_laid_over_is_said_in_one_line(name: str, message: str, place: Path) -> None:
    torch.save(Net(), place / "module.pt")
    torch.save(3, place / "number.pt")
    (place / "text.pt").write_text("weights")
    (place / "cut.safetensors").write_bytes(struct.pack("<Q", 1000) + b"{}")
    torch.save({"first.weight": torch.zeros(8, 4)}, place / "wide.pt")
    torch.save({"encoder": torch.zeros(8, 4)}, place / "other.pt")
    (place / "bad.index.json").write_text("{}")
    (place / "out.index.json").write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ModelError, match=message) as caught:
        lay_over(_net(), place / name, "net")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "a.b.module.", "a._fsdp_wrapped_module."]
)
def test_wrappers_in_one_another_are_taken_off(place: Path, prefix: str) -> None:
    state = _net().state_dict()
    torch.save({f"{prefix}{key}": tensor for key, tensor in state.items()}, place / "w.pt")
    module = _net()
    lay_over(module, place / "w.pt", "net")
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


def test_a_part_that_was_compiled_has_its_own_names(place: Path) -> None:
    state = _net().state_dict()
    torch.save({key.replace("first.", "first._orig_mod."): tensor for key, tensor in state.items()}, place / "w.pt")
    module = _net()
    laid = lay_over(module, place / "w.pt", "net")
    assert len(laid.notes) == 1
    assert torch.equal(module.state_dict()["first.weight"], state["first.weight"])
