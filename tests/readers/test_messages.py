"""What a person is told who brings the wrong thing: one line that says what to do, word for word."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.command import gnelint

NETWORKS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.a, self.b = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 8)

    def forward(self, x, y):
        return self.a(x) + y


class Misfit(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(9, 2)

    def forward(self, x):
        return self.b(self.a(x))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.coder, self.voice = Net(), Net()


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()


def scripted():
    return torch.jit.script(Net()), (torch.randn(2, 4),)


def number():
    return 3


def quantised():
    return torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear})


def lazy():
    return nn.Sequential(nn.LazyLinear(4))
"""

FORMS = (
    "A target is a .onnx or .pt2 file, a directory or glob of these, package.module:name, path/file.py:name, "
    "path/file.py:Net(depth=20), hf:ID_OR_DIRECTORY, timm:NAME or torchvision:NAME."
)
CODE = "Point at the code that builds the network, package.module:name"
STATE = f"{CODE}; for its weights, save its state_dict() with torch.save and pass --weights FILE."
INPUTS = (
    "Pass one --input each, such as --input 8,4; name=8,16:int64 names and types one, batch.image=8,3,32,32 fills a "
    "dict; or point at a function that returns (module, inputs) or (module, inputs, kwargs)."
)

SAID = {
    "pickled.pt": (
        f"pickled.pt: a pickled module (torch.nn.modules.linear.Linear), which is code and is not run. {STATE}"
    ),
    "script.pt": (f"script.pt: a TorchScript archive, whose program cannot be traced. {STATE}"),
    "weights.pt": (f"weights.pt: a file of weights holds no network. {CODE}, and pass --weights weights.pt."),
    "model.keras": (
        "model.keras: a Keras file. The way here: python -m tf2onnx.convert --keras model.keras --output model.onnx."
    ),
    "model.h5": (
        "model.h5: a Keras file. The way here: python -m tf2onnx.convert --keras model.h5 --output model.onnx."
    ),
    "model.tflite": (
        "model.tflite: a TFLite file. The way here: python -m tf2onnx.convert --tflite model.tflite --output "
        "model.onnx."
    ),
    "saved": (
        "saved: a SavedModel of TensorFlow. Convert it: python -m tf2onnx.convert --saved-model saved "
        "--output model.onnx"
    ),
    "flax.msgpack": (
        "flax.msgpack: weights of Flax. The way here: write the function with jax2onnx (to_onnx) and check "
        "the .onnx file."
    ),
    "sharded": (
        "sharded: a checkpoint of torch.distributed, which holds no network. Make one file of it, python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch sharded weights.pt, and pass --weights weights.pt."
    ),
    "net.py:Net --weights sharded": (
        "net.py:Net: sharded is a directory. Make one file of it, python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch sharded weights.pt, and pass --weights weights.pt."
    ),
    "net.py:Net --weights saved": (
        "net.py:Net: saved is a directory. Pass --weights FILE.pt, FILE.safetensors or an index.json."
    ),
    "model.safetensors.index.json": (
        "model.safetensors.index.json: a file of weights holds no network. "
        f"{CODE}, and pass --weights model.safetensors.index.json."
    ),
    "orbax": (
        "orbax: a checkpoint of JAX, which holds no network. Write the function with jax2onnx (to_onnx) and "
        "check the .onnx file."
    ),
    "model.txt": (f"model.txt: not a model file. {FORMS}"),
    "net.py": (
        "net.py: which module of this file? Name it behind a colon, as in net.py:Net; it defines Net, Two, "
        "Misfit, Parts, Wide, scripted."
    ),
    "sizes.py": (
        "sizes.py: has no class, function or variable at its top that could be a network. Name the file that does, "
        "and the network in it: path/file.py:name."
    ),
    "broken.py": ("broken.py: is no valid Python (line 1: '(' was never closed). Mend it first."),
    "net.pyy:Net": ("net.pyy:Net: there is no net.pyy. Did you mean net.py:Net?"),
    "net.onnx:Net": ("net.onnx:Net: net.onnx is a file of one network, which has no name in it. Write net.onnx."),
    "net.py:Wide(height=3)": (
        "net.py:Wide(height=3): the arguments do not fit: missing a required argument: 'width'. It takes (width)."
    ),
    "net.py:Net --config tool.toml": (
        'tool.toml: unknown key "tool". In a file of its own keys stand at the top; [tool.gnelint] belongs into a '
        "pyproject.toml."
    ),
    "net.py:Nett": ('net.py:Nett: net.py has no "Nett". Did you mean Net?'),
    "net.py:Wide": ("net.py:Wide: needs arguments (width). Write them behind it, as literals: net.py:Wide(width=...)."),
    "net.py:number": (
        "net.py:number: gives a int, not a torch.nn.Module. Point at a module, a module class, or a function "
        "that returns a module, (module, inputs) or (module, inputs, kwargs)."
    ),
    "net.py:scripted": (
        "net.py:scripted: is a TorchScript module, which cannot be traced. Point at the module that it was made of."
    ),
    "net.py:quantised": (
        "net.py:quantised: holds quantised layers (a), whose packed integers have no gradient. Point at the "
        "floating-point module that it was made of."
    ),
    "net.py:lazy": (
        "net.py:lazy: the shapes of its inputs are not known (its layer 0 takes its size from them). "
        f"{INPUTS.replace('8,4;', '8,16;')}"
    ),
    "net.py:Parts": (
        "net.py:Parts: has no forward of its own (modules in it: coder, voice). Write one, or point at a "
        "function that returns one of them, or (module, inputs)."
    ),
    "net.py:Two": (f"net.py:Two: the shapes of its inputs are not known (forward takes x, y). {INPUTS}"),
    "net.py:Misfit": (
        "net.py:Misfit: the shapes of its inputs are not known (forward takes x; on 8,4, guessed from its "
        "first layer, it fails: RuntimeError: a and b must have same reduction dim, but got [8, 8] X [9, 2] "
        f"({{dir}}/net.py:29)). {INPUTS}"
    ),
    "net.py:Two --input 2,4": ("net.py:Two: no --input for y. Pass one each, as in --input y=8,16."),
    "net.py:Net --input y=2,4": ('net.py:Net: forward takes no "y". It takes x.'),
    "net.py:Net --input 2,4 --input 2,4": ("net.py:Net: more --input than forward takes arguments. It takes x."),
    "net.py:Net --input 2,5": (
        "net.py:Net: cannot be traced: RuntimeError: a and b must have same reduction dim, but got [2, 5] X "
        "[4, 8] ({dir}/net.py:11). Check the shapes and types of its inputs (--input 8,3,32,32)."
    ),
    "net.py:Net --input 2,x": (
        '--input 2,x: "x" is not a positive size. Write sizes with commas, a name and a type if needed: '
        "--input 8,3,32,32 or --input ids=8,16:int64"
    ),
    "net.py:Net --weights wide.pt": (
        "net.py:Net: a.weight has shape (16, 4) in wide.pt and (8, 4) in the module. Build the module as it "
        "was when it was saved: path/file.py:Net(width=128)."
    ),
    "net.py:Net --weights missing.pt": (
        "net.py:Net: there is no file missing.pt. Pass --weights FILE.pt, FILE.safetensors or an index.json."
    ),
    "net.py:Net --weights script.pt": (
        "net.py:Net: script.pt is a TorchScript archive. Save model.state_dict() of the module it was made of."
    ),
    "net.py:Net --weights pickled.pt": (
        "net.py:Net: pickled.pt holds more than tensors, such as a pickled module, which is code and is not "
        "run. Save model.state_dict() with torch.save."
    ),
    "net.py:Net --weights model.txt": (
        "net.py:Net: model.txt is no checkpoint that torch can load. Save model.state_dict() with torch.save."
    ),
}
LIBRARIES = {
    "hf:some/model": ("transformers", "hf"),
    "timm:resnet18": ("timm", "timm"),
    "torchvision:resnet18": ("torchvision", "torchvision"),
}


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each."""
    folder = tmp_path_factory.mktemp("brought")
    (folder / "net.py").write_text(NETWORKS.lstrip(), encoding="utf-8")
    for name in (
        "model.keras",
        "model.h5",
        "model.tflite",
        "flax.msgpack",
        "model.txt",
        "model.safetensors.index.json",
    ):
        (folder / name).write_bytes(b"not read")
    for name, text in (
        ("sizes.py", "width = 3"),
        ("broken.py", "f("),
        ("net.onnx", ""),
        ("tool.toml", "[tool.gnelint]"),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("saved/saved_model.pb", "orbax/_METADATA", "sharded/.metadata"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"{}")
    torch.save(nn.Linear(4, 2), folder / "pickled.pt")
    torch.save(nn.Linear(4, 2).state_dict(), folder / "weights.pt")
    torch.save({"a.weight": torch.zeros(16, 4)}, folder / "wide.pt")
    torch.jit.trace(nn.Linear(4, 2), torch.zeros(1, 4)).save(str(folder / "script.pt"))
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("given", SAID)
def test_one_line_says_what_to_do(brought: Path, given: str) -> None:
    done = gnelint("check", "--no-cache", *given.split(), cwd=brought)
    assert done.stderr.strip() == f"gnelint: {SAID[given].format(dir=brought)}"
    assert (done.stdout, done.returncode) == ("", 2)


@pytest.mark.parametrize("target", LIBRARIES)
def test_a_package_that_is_missing_is_named(brought: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, extra = LIBRARIES[target]
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )
    done = gnelint("check", "--no-cache", target, cwd=brought)
    said = f'gnelint: {target}: needs {package}, which is not installed. Install it: pip install "gnelint[{extra}]"'
    assert done.stderr.strip() == said
    assert (done.stdout, done.returncode) == ("", 2)
