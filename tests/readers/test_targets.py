"""What the user typed: every form, every way to get it wrong, and which of them loads torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from gnelint.errors import GnelintError, ModelError, UsageError
from gnelint.readers.inputs import InputSpec
from gnelint.readers.reading import read_target
from gnelint.readers.target import Target, resolve

NETWORKS = """
import torch
from torch import nn
from sibling import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, 2)
    def forward(self, x):
        return self.linear(x).relu()

class Wide(Net):
    def __init__(self, width):
        super().__init__()

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
    def forward(self, ids, weights=None, *, mask=None):
        found = self.embed(ids)
        return found if mask is None else found * mask

class Two(Net):
    def forward(self, x, y):
        return super().forward(x + y)

class Batch(nn.Module):
    def __init__(self, width=4, names=("image",)):
        super().__init__()
        self.linear, self.names = nn.Linear(width, width), names
    def forward(self, batch):
        return self.linear(sum(batch[name] for name in self.names))

model = Net()
program = torch.export.export(Net(), (torch.zeros(5, WIDTH),))

def make():
    print("building")
    return Net()

def pair():
    return Net(), (torch.zeros(6, WIDTH),)

def named():
    return Words(), {"ids": torch.zeros(2, 3, dtype=torch.int64)}

def keyword():
    return Words(), (torch.zeros(2, 3, dtype=torch.int64),), {"mask": torch.ones(4)}

def number():
    return 3

def broken():
    return {}["weights"]

def leaves():
    raise SystemExit(4)

class Holder:
    inner = Net()

def several():
    return Net(), torch.zeros(2, 4), torch.zeros(2)
"""


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    (tmp_path / "sibling.py").write_text("WIDTH = 4\n")
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    return path


def test_model_files_directories_and_globs(tmp_path: Path) -> None:
    for name in ("b.onnx", "a.pt2", "sub/c.onnx", ".hidden/d.onnx", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert resolve(str(tmp_path / "b.onnx")) == (Target(f"{tmp_path}/b.onnx", "onnx", tmp_path / "b.onnx"),)
    assert [t.path.name for t in resolve(str(tmp_path)) if t.path] == ["a.pt2", "b.onnx", "c.onnx"]
    assert [t.kind for t in resolve(str(tmp_path))] == ["pt2", "onnx", "onnx"]
    assert [t.text for t in resolve(f"{tmp_path}/*.onnx")] == [f"{tmp_path}/b.onnx"]
    assert len(resolve(f"{tmp_path}/**/*.onnx")) == 2


def test_python_targets(networks: Path) -> None:
    assert resolve("torchvision.models:resnet18") == (
        Target("torchvision.models:resnet18", "python", module="torchvision.models", attribute="resnet18"),
    )
    (target,) = resolve(f"{networks}:Holder.inner")
    assert (target.path, target.attribute) == (networks, "Holder.inner")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", UsageError, "is empty"),
        ("missing.onnx", ModelError, "no such file"),
        ("{dir}/netwroks.py:model", ModelError, "Did you mean .*networks.py"),
        ("{dir}/nodir/model.onnx", ModelError, "no directory"),
        ("{dir}/empty", ModelError, "no .onnx or .pt2 file"),
        ("{dir}/*.onnx", ModelError, "no file matches"),
        ("{dir}/*.py", ModelError, "none of them"),
        ("{dir}/networks.py", UsageError, r"networks.py:Net; it defines Net, Wide, Words, Two, Batch"),
        ("{dir}/weights.pth", UsageError, "holds no network"),
        ("{dir}/notes.txt", UsageError, "not a model file"),
        (
            "{dir}/networks.py:Batch(width=WIDTH)",
            UsageError,
            r"arguments are not understood.*Net\(depth=20, width=128\)",
        ),
        (
            "{dir}/networks.py:nets['small']",
            UsageError,
            r"nothing is evaluated behind the colon. Write a function that returns nets\['small'\]",
        ),
        ("package.module:net.blocks[0]", UsageError, r"returns net.blocks\[0\] and name it: package.module:network"),
        ("{dir}/networks.py:Batch(*[3])", UsageError, "arguments are not understood"),
        ("{dir}/networks.py:Batch(__import__('os'))", UsageError, "arguments are not understood"),
        (
            "{dir}/model.keras",
            UsageError,
            r"a Keras file. The way here: python -m tf2onnx.convert --keras .*model.keras",
        ),
        ("{dir}/model.ort", UsageError, "ONNX Runtime's own format. The way here: check the .onnx file"),
        ("{dir}/model.tflite", UsageError, "a TFLite file. The way here: python -m tf2onnx.convert --tflite"),
        ("{dir}/model.msgpack", UsageError, "weights of Flax. The way here: .*jax2onnx"),
        ("{dir}/model.pkl", UsageError, "a pickle, which is code and is not run"),
        ("{dir}/script.pt", UsageError, "a TorchScript archive, whose program cannot be traced. Point at the code"),
        ("{dir}/saved", ModelError, r"a SavedModel of TensorFlow. Convert it: python -m tf2onnx.convert --saved-model"),
        ("{dir}/hub", ModelError, r"a directory of transformers. Check the design that it configures: hf:.*/hub"),
        ("hf:", UsageError, "no name behind the colon. As in hf:bert-base-uncased"),
        ("{dir}/networks.py:", UsageError, "no name behind"),
        (":model", UsageError, "neither a Python file nor a module"),
        ("package.module", UsageError, "package.module:model"),
    ],
)
def test_wrong_targets(networks: Path, text: str, error: type[GnelintError], message: str) -> None:
    folder = networks.parent
    (folder / "empty").mkdir()
    for name in ("weights.pth", "model.keras", "model.tflite", "model.ort", "model.msgpack", "model.pkl"):
        (folder / name).touch()
    with zipfile.ZipFile(folder / "script.pt", "w") as archive:
        archive.writestr("script/code/__torch__.py", "")
    for name in ("saved/saved_model.pb", "hub/config.json"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    (folder / "notes.txt").touch()
    with pytest.raises(error, match=message) as caught:
        resolve(text.format(dir=folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "inputs", "batch"),
    [
        ("model", [InputSpec((8, 4))], 8),
        ("Net", [InputSpec((8, 4))], 8),
        ("make", [InputSpec((8, 4), name="x")], 8),
        ("pair", [], 6),
        ("pair", [InputSpec((9, 4))], 9),
        ("program", [], 5),
        ("Holder.inner", [InputSpec((8, 4))], 8),
        ("named", [], 2),
        ("keyword", [], 2),
        ("model", [], 8),
        ("Words", [], 8),
        ("Batch", [InputSpec((7, 4), name="batch.image")], 7),
        ("Batch(6)", [InputSpec((7, 6), name="batch.image")], 7),
        ("Batch(names=['a', 'b'])", [InputSpec((7, 4), name="batch.a"), InputSpec((7, 4), name="batch.b")], 7),
        ("Words", [InputSpec((3, 5), dtype="int64")], 3),
        ("Words", [InputSpec((3, 5), name="ids", dtype="int64"), InputSpec((4,), name="mask")], 3),
    ],
)
def test_reading_python_targets(networks: Path, name: str, inputs: list[InputSpec], batch: int) -> None:
    (target,) = resolve(f"{networks}:{name}")
    path = list(sys.path)
    graph = read_target(target, training=True, inputs=inputs)
    assert graph.name == target.text
    assert graph.values[graph.inputs[0]].shape is not None
    assert graph.values[graph.inputs[0]].shape[0] == batch
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("mdoel", [], "Did you mean model"),
        ("zzz", [], "It has Net, Wide, Words, Two, Batch"),
        ("Wide", [], r"needs arguments \(width\).*networks.py:Wide\(width=\.\.\.\)"),
        ("number", [], "gives a int, not a torch.nn.Module"),
        ("several", [], r"gives \(module, inputs, Tensor\).*return \(module, \(x, y\)\)"),
        ("broken", [], r"calling it raised KeyError: 'weights' \(.*networks.py:5\d\)"),
        ("leaves", [], "SystemExit"),
        ("Two", [], r"forward takes x, y\).* --input 8,4;.*batch.image=8,3,32,32.*\(module, inputs, kwargs\)"),
        ("Words", [InputSpec((3, 5))], r"integers is needed"),
        ("model", [InputSpec((8, 4), name="y")], 'forward takes no "y"'),
        ("model", [InputSpec((8, 4)), InputSpec((8, 4))], "more --input than"),
        ("Words", [InputSpec((4,), name="mask")], "no --input for ids"),
        ("model", [InputSpec((8, 5))], r"cannot be traced.*networks.py:11"),
    ],
)
def test_python_targets_that_fail(networks: Path, name: str, inputs: list[InputSpec], message: str) -> None:
    (target,) = resolve(f"{networks}:{name}")
    with pytest.raises(ModelError, match=message) as caught:
        read_target(target, training=True, inputs=inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import nothing_like_this\n",
            r"ModuleNotFoundError.*module\.py:1.* install it for the Python",
        ),
        ("def f(:\n", r"SyntaxError: .*module\.py:1"),
        ("x = 1\nraise RuntimeError('first\\nsecond')\n", r"RuntimeError: first \(.*module\.py:2\)"),
        ("import sys\nsys.exit('bye')\n", r"SystemExit: bye"),
    ],
)
def test_modules_that_cannot_be_imported(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "module.py").write_text(source)
    (target,) = resolve(f"{tmp_path}/module.py:model")
    with pytest.raises(ModelError, match=message) as caught:
        read_target(target, training=True, inputs=())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["inner/net.py", "inner/__init__.py"])
def test_a_file_of_a_package_is_read_as_its_part(tmp_path: Path, file: str) -> None:
    files = {
        "__init__.py": "",
        "sizes.py": "WIDTH = 6\n",
        "inner/__init__.py": "from .net import Small\n",
        "inner/net.py": "from torch import nn\n\nfrom ..sizes import WIDTH\n\nSmall = nn.Linear(WIDTH, WIDTH)\n",
    }
    package = f"package_{Path(file).stem.strip('_')}"  # imported once in a process
    (tmp_path / package / "inner").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / package / name).write_text(text)
    (target,) = resolve(f"{tmp_path}/{package}/{file}:Small")
    assert [node.op for node in read_target(target).nodes] == ["linear"]


def test_a_module_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynetworks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    (target,) = resolve("mynetwork:model")
    with pytest.raises(ModelError, match=r"no Python module mynetwork.*Did you mean mynetworks"):
        read_target(target)
    (target,) = resolve("torch.nnn:Linear")
    with pytest.raises(ModelError, match=r"no Python module torch\.nnn"):
        read_target(target)


def test_prints_of_user_code_stay_off_standard_output(networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (target,) = resolve(f"{networks}:make")
    read_target(target, inputs=[InputSpec((8, 4))])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "building" in captured.err


def test_resolving_does_not_load_torch(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    program = f"""
        import sys
        from gnelint.readers.target import resolve
        resolve({str(tmp_path)!r}), resolve("some.module:name")
        print("torch" in sys.modules, "onnx" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_torch_the_extra_is_named(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for text in (f"{networks}:model", "a.module:name"):
        with pytest.raises(ModelError, match=r'pip install "gnelint\[torch\]"'):
            read_target(resolve(text)[0])
