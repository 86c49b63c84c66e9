"""Every command of README, in a folder of its own that holds what README says a user has."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.command import gnelint
from tests.test_cli import write_mlp

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

PACKAGE = """
import torch


class ResNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 7, stride=4)
        self.layer = torch.nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, image):
        x = self.stem(image)
        return (x + torch.relu(self.layer(x))).mean((2, 3))
"""

NET = """
import torch


class Net(torch.nn.Sequential):
    def __init__(self, depth, width):
        layers = [torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU()) for _ in range(depth)]
        super().__init__(*layers)
"""

TRAIN = """
import torch


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(100, 16)
        layers = [torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU()) for _ in range(12)]
        for layer in layers:
            torch.nn.init.normal_(layer[0].weight, std=0.1)
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, ids):
        return self.layers(self.embed(ids))


def make_model():
    torch.manual_seed(0)
    return Words()


class Lit(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 8, 3)

    def forward(self, batch):
        return self.net(batch["image"])
"""

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 50,
}  # fmt: skip

NEEDED = {"hf:": "transformers", "timm:": "timm", "torchvision:": "torchvision"}
"""The package that builds targets that begin so."""
ELSEWHERE = {
    "gnelint verify tests/models": "tests/test_readme.py runs it, and the test of the wheel",
    ".venv/bin/python -m pytest": "it is the command that runs this test",
    ".venv/bin/python -m tests.fuzz": "tests/fuzz tests it, on fewer files",
    ".venv/bin/python -m tests.benchmarks": "takes hours",
    "python3 -m venv .venv && .venv/bin/pip install -q -e": "it is the command that runs this test",
}
"""How commands begin that are not run here, and why not."""


def blocks() -> list[list[str]]:
    """The commands of each block of README."""
    return [block.splitlines() for block in re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)]


SET_UP, *BLOCKS = blocks()
INLINE = list(dict.fromkeys(re.findall(r"`(gnelint (?:init|rules|rule GNE\d+))`", README)))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user who has followed README: a file as the set-up writes it, and their networks."""
    folder = tmp_path_factory.mktemp("readme")
    write_mlp(folder / "plain50.onnx", gain=0.5, depth=12, width=16)  # in the place of 50 convolutions, which take long
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "models.py").write_text(PACKAGE)
    (folder / "net.py").write_text(NET)
    (folder / "train.py").write_text(TRAIN)
    (folder / "llama").mkdir()
    (folder / "llama" / "config.json").write_text(json.dumps(LLAMA))
    (folder / "models").mkdir()
    shutil.copy(folder / "plain50.onnx", folder / "models")
    write_safetensors(folder / "model.safetensors")
    program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), (torch.randn(2, 4),))
    torch.export.save(program, folder / "exported.pt2")
    (folder / "tests").symlink_to(ROOT / "tests")  # of the checkout that README is read in
    return folder


def write_safetensors(path: Path) -> None:
    """The weights of the network of train.py: a header's length, the header, the tensors one after the other."""
    namespace: dict[str, object] = {}
    exec(TRAIN, namespace)
    state = namespace["make_model"]().state_dict()  # type: ignore[operator]
    header, body = {}, b""
    for name, tensor in state.items():
        raw = tensor.numpy().tobytes()
        ends = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": ends}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def missing(command: str) -> list[str]:
    """The packages that a command needs and this environment lacks."""
    found = re.findall(rf"(?:{'|'.join(NEEDED)})", command)
    return [NEEDED[start] for start in found if find_spec(NEEDED[start]) is None]


def reason_not_to_run(command: str) -> str:
    """Why a command is not run here, "" where it is."""
    lacking = missing(command)
    if lacking:
        return f"needs {', '.join(lacking)}"
    return next((reason for start, reason in ELSEWHERE.items() if command.startswith(start)), "")


def in_a_row(commands: list[str]) -> tuple[list[str], list[str]]:
    """The commands that can be run, and those that cannot, with the reason."""
    reasons = {command: reason_not_to_run(command) for command in commands}
    return [each for each in commands if not reasons[each]], [f"{each}: {why}" for each, why in reasons.items() if why]


def single(block: list[str]) -> bool:
    """Whether the commands of a block stand for themselves: they only look."""
    return all(command.startswith("gnelint check") for command in block)


GROUPS = [group for block in BLOCKS for group in ([[each] for each in block] if single(block) else [block])]


@pytest.mark.parametrize("commands", [*GROUPS, *([each] for each in INLINE)], ids=lambda group: group[0][:60])
def test_the_commands_do_what_they_say(lived: Path, commands: list[str]) -> None:
    """Code 0 or 1: what was asked was done, whatever was found. Later commands of a block build on those before."""
    possible, skipped = in_a_row(commands)
    if not possible:
        pytest.skip("; ".join(skipped))
    for command in possible:
        program, *words = shlex.split(command, comments=True)
        assert program == "gnelint", command
        result = gnelint(*words, cwd=lived)
        assert result.returncode in (0, 1), f"{command}: {result.stderr}"
        assert result.stdout, command


@pytest.mark.slow  # installs a wheel, and starts a process a command
@pytest.mark.skipif(find_spec("pip") is None, reason="the environment has no pip")
def test_the_commands_from_a_wheel(lived: Path, tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", wheels, ROOT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if built.returncode:
        pytest.skip(f"the build's own packages cannot be had: {built.stderr.strip().splitlines()[-1]}")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, *wheels.iterdir()], cwd=tmp_path, check=True)
    folder = tmp_path / "lived"
    shutil.copytree(lived, folder, symlinks=True, ignore=shutil.ignore_patterns("fixed.onnx", ".gnelint_cache"))
    for name in ("fixed.onnx", "init_weights.py", "gnelint.toml"):
        (folder / name).unlink(missing_ok=True)
    subprocess.run([sys.executable, "tests/models/plain_onnx.py", "plain50.onnx"], cwd=folder, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "PATH": f"{site / 'bin'}:{os.environ['PATH']}"}
    for command in [each for block in [*BLOCKS, INLINE] for each in block if each.startswith("gnelint")]:
        if missing(command):
            continue
        result = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode in (0, 1), f"{command}: {result.stderr}"
        assert result.stdout, command


@pytest.mark.slow  # makes an environment and installs what gnelint needs from the index
def test_the_first_command_of_all(tmp_path: Path) -> None:
    checkout = tmp_path / "gnelint"
    subprocess.run(["git", "clone", "-q", ROOT, checkout], check=True)
    (command,) = SET_UP
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        command, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if "No matching distribution" in result.stderr or "Could not find a version" in result.stderr:
        pytest.skip("there is no package index here")
    assert result.returncode == 1, result.stderr
    assert "51 errors, 0 warnings." in result.stdout
