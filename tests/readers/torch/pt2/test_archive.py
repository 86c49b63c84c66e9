"""Every way by which torch's own loader would run code out of a .pt2 file, and files that are to be read as before."""

import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gnelint.errors import ModelError
from gnelint.readers.torch.reader import load_pt2, read_pt2


class Evil:
    """Unpickles to whatever a call of `os.system` returns."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


class Silent(Evil):
    """Unpickles to what torch expects as sample inputs, after code has run."""

    def __reduce__(self) -> Any:
        code = f"(open({str(self.mark)!r}, 'w'), ((__import__('torch').zeros(8, 4),), {{}}))[1]"
        return eval, (code,)


class Net(nn.Module):
    """Arguments by position and by name, a constant, a branch with graphs of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.shift = torch.ones(4)  # no buffer: exported as a constant

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        h = torch.relu(self.first(x)) * scale + self.shift
        with torch.no_grad():
            mean = h.mean()
        return {"out": self.second(h), "mean": mean}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "good.pt2"
    batch = {"x": {0: torch.export.Dim("b", min=2, max=64)}, "scale": {}}
    inputs = ((torch.randn(8, 4),), {"scale": torch.ones(4)})
    torch.export.save(torch.export.export(Net(), *inputs, dynamic_shapes=batch), path)
    return path


Change = Callable[[str, bytes], bytes]


def _rewritten(good: Path, evil: Path, change: Change, more: tuple[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(evil, "w") as new:
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, change(name, old.read(info)))
        if more is not None:
            new.writestr(f"good/{more[0]}", more[1])
    return evil


def _in_program(change: Callable[[dict[str, Any]], None]) -> Change:
    def changed(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        program = json.loads(data)
        change(program)
        return json.dumps(program).encode()

    return changed


def _part(wanted: str, data: Callable[[], bytes]) -> Change:
    return lambda name, found: data() if name == wanted else found


def _torch_pickle(found: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(found, buffer)
    return buffer.getvalue()


def _code(mark: Path) -> str:
    return f"__import__('os').system('touch {mark}')"


def _nodes(program: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = program["graph_module"]["graph"]["nodes"]
    return found


def _renamed(program: dict[str, Any], old: str, new: str) -> None:
    text = json.dumps(program).replace(json.dumps(old), json.dumps(new))
    program.update(json.loads(text))


def _tree(program: dict[str, Any], key: str, change: Callable[[dict[str, Any]], None]) -> None:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    protocol, tree = json.loads(signature[key])
    change(tree)
    signature[key] = json.dumps([protocol, tree])


def _payload(kind: str, change: Callable[[dict[str, Any]], None], data: Callable[[], bytes]) -> Change:
    """The first entry of a table of payloads changed, and its bytes."""
    first: list[str] = []

    def changed(name: str, found: bytes) -> bytes:
        if name == f"data/{kind}/model_{kind}_config.json":
            table = json.loads(found)
            change(next(iter(table["config"].values())))
            return json.dumps(table).encode()
        if name.startswith(f"data/{kind}/") and not first:
            first.append(name)
            return data()
        return found

    return changed


def _sympified(mark: Path) -> Change:
    def change(program: dict[str, Any]) -> None:
        for value in program["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = _code(mark)

    return _in_program(change)


def _target(name: str, **more: Any) -> Callable[[Path], Change]:
    def door(mark: Path) -> Change:
        def change(program: dict[str, Any]) -> None:
            node = _nodes(program)[1]
            argument = {"name": "", "arg": {"as_string": f"touch {mark}"}, "kind": 1}
            node.update({"target": name, "inputs": [argument], **more})

        return _in_program(change)

    return door


def _operator_argument(mark: Path) -> Change:
    def change(program: dict[str, Any]) -> None:
        _nodes(program)[1]["target"] = "torch.ops.higher_order.auto_functionalized"
        _nodes(program)[1]["inputs"].insert(0, {"name": "", "arg": {"as_operator": "torch.os.system"}, "kind": 1})

    return _in_program(change)


def _enum(mark: Path) -> Change:
    """A structure that names an enumeration is looked up in its module, which is imported for it."""
    mark.with_suffix(".py").write_text(f"open({str(mark)!r}, 'w')")
    context = {"__enum__": True, "fqn": f"{mark.stem}:E", "name": "A"}
    return _in_program(
        lambda program: _tree(program, "out_spec", lambda tree: tree.update(context=json.dumps(context)))
    )


def _factory(mark: Path) -> Change:
    mark.with_suffix(".py").write_text(f"open({str(mark)!r}, 'w')")
    keys = {"dict_context": ["out", "mean"]}
    context = {"default_factory_module": mark.stem, "default_factory_name": "dict", **keys}

    def change(tree: dict[str, Any]) -> None:
        tree.update(type="collections.defaultdict", context=context)

    return _in_program(lambda program: _tree(program, "out_spec", change))


def _keyword(mark: Path) -> Change:
    name = f"scale={_code(mark)}"
    return _in_program(
        lambda program: _tree(
            program, "in_spec", lambda tree: tree["children_spec"][1].update(context=json.dumps([name]))
        )
    )


def _argument_names(mark: Path) -> Change:
    def change(program: dict[str, Any]) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = [f"x={_code(mark)}", "scale"]

    return _in_program(change)


def _guard(mark: Path) -> Change:
    return _in_program(lambda program: program.update(guards_code=[_code(mark)]))


DOORS: dict[str, Callable[[Path], Change]] = {
    "sample inputs": lambda mark: _part("data/sample_inputs/model.pt", lambda: pickle.dumps(Evil(mark))),
    "sample inputs, silently": lambda mark: _part("data/sample_inputs/model.pt", lambda: _torch_pickle(Silent(mark))),
    "a pickled weight": lambda mark: _payload(
        "weights", lambda meta: meta.update(use_pickle=True), lambda: _torch_pickle(Evil(mark))
    ),
    "a pickled constant": lambda mark: _payload(
        "constants", lambda meta: meta.update(use_pickle=True), lambda: _torch_pickle(Evil(mark))
    ),
    "a size": _sympified,
    "a guard": _guard,
    "a function of the operating system": _target("torch.os.system"),
    "a function of math's neighbour": _target("_operator.methodcaller"),
    "a loader of libraries": _target("torch.ops.load_library"),
    "a reader of files": _target("torch.ops.aten.from_file.default"),
    "an extension": _target("#os:system"),
    "an operation as an argument": _operator_argument,
    "an enumeration": _enum,
    "a factory of defaults": _factory,
    "the name of an input": lambda mark: _in_program(lambda program: _renamed(program, "x", f"x={_code(mark)}")),
    "the name of a keyword": _keyword,
    "the names of arguments": _argument_names,
    "the name of a parameter": lambda mark: _in_program(
        lambda program: _renamed(program, "first.weight", f'first.w", {_code(mark)}, "')
    ),
    "the name of an argument": lambda mark: _in_program(
        lambda program: _nodes(program)[1]["inputs"][0].update(name=f"x={_code(mark)}", kind=2)
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_nothing_in_a_file_is_run(door: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    mark = tmp_path / "ran_by_gnelint"
    evil = _rewritten(good, tmp_path / "evil.pt2", DOORS[door](mark))
    with contextlib.suppress(ModelError):
        program = load_pt2(evil)
        read_pt2(evil)
        program.module()(torch.randn(8, 4), scale=torch.ones(4))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["data/weights/model.pt", "data/constants/model.pt"])
def test_weights_as_older_versions_wrote_them_are_no_pickle(name: str, good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    more = (name, _torch_pickle(Evil(mark)))
    evil = _rewritten(good, tmp_path / "evil.pt2", lambda _, data: data, more)
    with pytest.raises(ModelError, match="refused"):
        load_pt2(evil)
    assert not mark.exists()


def test_the_oldest_layout_is_read_without_running_it(good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    found = load_pt2(good)
    with zipfile.ZipFile(good) as archive:
        text = archive.read("good/models/model.json")
    for evil in (False, True):
        with zipfile.ZipFile(tmp_path / "old.pt2", "w") as new:
            new.writestr("version", "8.8")
            new.writestr("serialized_exported_program.json", text)
            new.writestr("serialized_state_dict.pt", _torch_pickle(dict(found.state_dict)))
            new.writestr("serialized_constants.pt", _torch_pickle(Evil(mark) if evil else dict(found.constants)))
            new.writestr("serialized_example_inputs.pt", pickle.dumps(Evil(mark)))
        if evil:
            with pytest.raises(ModelError, match="refused"):
                load_pt2(tmp_path / "old.pt2")
        else:
            assert load_pt2(tmp_path / "old.pt2").state_dict.keys() == found.state_dict.keys()
    assert not mark.exists()


@pytest.mark.parametrize("path", ["opaque_obj_0", "custom_obj_0"])
def test_objects_are_refused(path: str, good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    change = _payload("constants", lambda meta: meta.update(path_name=path, use_pickle=True), bytes)
    more = (f"data/constants/{path}", pickle.dumps(Evil(mark)))
    with pytest.raises(ModelError, match="Python object"):
        load_pt2(_rewritten(good, tmp_path / "evil.pt2", change, more))
    assert not mark.exists()


def test_a_compiled_library_is_refused(good: Path, tmp_path: Path) -> None:
    evil = _rewritten(good, tmp_path / "evil.pt2", lambda _, data: data, ("data/aotinductor/model/a.so", b"\x7fELF"))
    with pytest.raises(ModelError, match="AOTInductor"):
        load_pt2(evil)


def test_compressed_parts_are_refused(good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(ModelError, match="compressed"):
        load_pt2(tmp_path / "bomb.pt2")


@pytest.mark.parametrize("size", [1 << 40, -1, 5])
def test_a_weight_reaches_no_further_than_its_bytes(size: int, good: Path, tmp_path: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        meta["tensor_meta"]["sizes"] = [{"as_int": size}, {"as_int": 4}]

    evil = _rewritten(good, tmp_path / "evil.pt2", _payload("weights", change, lambda: bytes(64)))
    with pytest.raises(ModelError, match=r"needs|impossible"):
        load_pt2(evil)


def test_what_torch_saves_is_read_as_torch_reads_it(good: Path) -> None:
    own, torchs = load_pt2(good), torch.export.load(good)
    assert str(own.graph) == str(torchs.graph)
    assert own.graph_signature == torchs.graph_signature
    assert own.range_constraints == torchs.range_constraints
    for name, tensor in torchs.state_dict.items():
        assert torch.equal(own.state_dict[name], tensor)
    assert own.example_inputs is not None
    x, scale = torch.randn(5, 4), torch.randn(4)
    assert torch.equal(own.module()(x, scale=scale)["out"], torchs.module()(x, scale=scale)["out"])


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    torch.export.save(torch.export.export(tied, (torch.randn(2, 4),)), tmp_path / "tied.pt2")
    state = load_pt2(tmp_path / "tied.pt2").state_dict
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()
