"""`gnelint fix` from the command line, and `gnelint.fix` from Python: what is written, what is said, what is left."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import gnelint
from gnelint.cli import cli
from tests.models import network
from tests.models.export import write_onnx
from tests.output.snapshots import assert_matches

NETS = """
import torch
from torch import nn

def wrong():
    torch.manual_seed(0)
    layers = [layer for _ in range(30) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 10)), torch.randn(8, 64)

def biased():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()), torch.randn(4, 3, 8, 8)
"""
BAD = "plain_mlp(depth=8, gain=0.3)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["fix", *words])


def process(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gnelint", "fix", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def wrong() -> tuple[nn.Module, torch.Tensor]:
    namespace: dict[str, object] = {}
    exec(NETS, namespace)
    return namespace["wrong"]()  # type: ignore[operator, no-any-return]


def onnx_file(path: Path, name: str = BAD) -> Path:
    torch.manual_seed(0)
    module, inputs = network(name)
    module.train()
    write_onnx(module, inputs, path, opset=17, dynamo=False, fold=False)
    return path


def test_an_onnx_file_is_fixed_and_the_input_stays(folder: Path) -> None:
    model = onnx_file(folder / "bad.onnx")
    before = hashlib.sha256(model.read_bytes()).hexdigest()
    done = run("bad.onnx", "-o", "good.onnx", "--no-verify")
    assert done.exit_code == 0, done.output
    assert hashlib.sha256(model.read_bytes()).hexdigest() == before
    onnx.checker.check_model("good.onnx", full_check=True)
    assert not [found for found in gnelint.check("good.onnx").findings if found.severity != "info"]
    assert abs(gnelint.check("good.onnx").prediction.gradient_log2 or 9.9) < 0.1
    again = run("good.onnx", "-o", "again.onnx")
    assert "nothing to fix" in again.output
    assert not Path("again.onnx").exists()


def test_the_list_of_edits(folder: Path) -> None:
    done = run("nets.py:wrong", "--diff")
    assert done.exit_code == 0
    assert_matches("fix_diff.txt", done.output)
    assert all(len(line) <= 80 for line in done.output.splitlines())
    assert {path.name for path in folder.iterdir()} <= {"nets.py", "__pycache__"}


def test_the_emitted_function(folder: Path) -> None:
    assert run("nets.py:wrong", "--emit-init", "init_wrong.py", "--no-verify").exit_code == 0
    namespace: dict[str, object] = {}
    exec(Path("init_wrong.py").read_text(), namespace)
    module, inputs = wrong()
    torch.manual_seed(1)
    namespace["init_weights"](module)  # type: ignore[operator]
    assert not gnelint.check(module, inputs).findings


def test_a_python_target_is_written_as_an_exported_program(folder: Path) -> None:
    done = run("nets.py:biased", "-o", "fixed.pt2", "--extend-select", "GNE310")
    assert done.exit_code == 0, done.output
    assert "GNE310" not in {found.rule for found in gnelint.check("fixed.pt2").findings}


def test_an_info_is_left_to_choice(folder: Path) -> None:
    done = run("nets.py:biased", "-o", "fixed.pt2", "--extend-select", "GNE31")
    assert "nothing to fix" in done.output
    assert "Left to your choice: 1 info (--extend-select GNE310 edits them)." in done.output
    assert not Path("fixed.pt2").exists()


def test_fix_returns_a_module_of_the_same_class() -> None:
    module, inputs = wrong()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fixed = gnelint.fix(module, inputs, verify=False)
    assert type(fixed) is type(module)
    assert fixed.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    prediction = gnelint.check(fixed, inputs).prediction
    before_head = prediction.nodes[-2].gradient_log2  # the head itself starts small on purpose
    assert prediction.gradient_log2 is not None
    assert before_head is not None
    assert abs(prediction.gradient_log2 - before_head) < 0.26  # a factor of 1.2


def test_in_place_keeps_the_mode_of_the_file(folder: Path) -> None:
    model = onnx_file(folder / "bad.onnx")
    model.chmod(0o640)
    assert run("bad.onnx", "--in-place", "--no-verify").exit_code == 0
    assert model.stat().st_mode & 0o777 == 0o640
    assert "nothing to fix" in run("bad.onnx", "--in-place", "--no-verify").output


def test_what_was_measured_as_a_page(folder: Path) -> None:
    onnx_file(folder / "bad.onnx")
    done = run("bad.onnx", "-o", "good.onnx", "--html", "page.html")
    assert done.exit_code == 0, done.output
    page = Path("page.html").read_text()
    for shown in ("bad.onnx", "good.onnx", "measured, with its 95% interval", "Better"):
        assert shown in page
    again = run("good.onnx", "-o", "again.onnx", "--html", "again.html")
    assert "again.html: not written, since there was nothing to fix" in again.output
    assert not Path("again.html").exists()


def test_what_is_not_fixed_is_said(folder: Path) -> None:
    assert "nothing to fix" in run("nets.py:wrong", "--diff", "--select", "GNE310").output
    onnx_file(folder / "norms.onnx", "normalized_convs(depth=10)")
    assert "--unsafe-fixes" in run("norms.onnx", "--diff", "--preview", "--select", "GNE311").output


STANDARDISED = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weights = nn.ParameterList(torch.randn(16, 16, 3, 3) for _ in range(12))

    def forward(self, x):
        for w in self.weights:
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True) * 144 + 1e-5).sqrt()
            x = F.relu(F.conv2d(x, w, padding=1))
        return x

def net():
    return Net(), torch.randn(4, 16, 8, 8)
"""


def test_nothing_is_written_where_the_writer_can_make_no_edit(folder: Path) -> None:
    (folder / "standardised.py").write_text(STANDARDISED)
    done = run("standardised.py:net", "-o", "fixed.pt2", "--no-verify")
    text = " ".join(done.output.split())
    assert "GNE306 warning weight-standardization-gain (12 places) it is not a submodule of its own" in text
    assert "it is new in the fixed model" not in text
    assert text.endswith("Nothing written.")
    assert not Path("fixed.pt2").exists()


def test_several_targets(folder: Path) -> None:
    onnx_file(folder / "one.onnx")
    onnx_file(folder / "two.onnx")
    done = run("one.onnx", "two.onnx", "--output-dir", "out", "--no-verify")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["one.onnx", "two.onnx"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["TARGET"]),
        (["nets.py:wrong"], ["where to?", "-o", "--diff"]),
        (["nets.py:wrong", "-o", "x.pt2", "--diff"], ["-o and --diff", "exclude"]),
        (["nets.py:wrong", "-o", "x.onnx"], ["x.onnx", ".pt2"]),
        (["nets.py:wrong", "--in-place"], ["--in-place", "not a model file"]),
        (["nowhere.onnx", "-o", "x.onnx"], ["nowhere.onnx"]),
        (["nets.py:wrong", "-o", "no/such/folder/x.pt2"], ["x.pt2", "cannot be written"]),
        (["bad.onnx", "-o", "no/such/folder/x.onnx"], ["x.onnx", "no directory no/such/folder"]),
        (["bad.onnx", "-o", "bad.onnx"], ["bad.onnx", "--in-place"]),
        (["bad.onnx", "-o", "x.onnx", "--html", "x.html", "--no-verify"], ["--html", "--no-verify"]),
    ],
)
def test_errors_are_one_line_and_a_code_of_2(folder: Path, words: list[str], said: list[str]) -> None:
    onnx_file(folder / "bad.onnx")
    done = process(folder, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in said), done.stderr
