"""The pre-commit hook, as a user meets it: pre-commit installs this repository and runs it on changed files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.test_cli import write_mlp

ROOT = Path(__file__).parents[1]
PRE_COMMIT = shutil.which("pre-commit")


def test_the_hooks_name_commands_that_exist() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {hook["id"]: hook["entry"].split()[:2] for hook in hooks} == {
        "gnelint": ["gnelint", "check"],
        "gnelint-fix": ["gnelint", "fix"],
    }


@pytest.mark.slow
@pytest.mark.skipif(PRE_COMMIT is None, reason="needs pre-commit on the path: pip install pre-commit")
def test_a_changed_file_in_a_scratch_repository(tmp_path: Path) -> None:
    assert PRE_COMMIT is not None
    repository = tmp_path / "scratch"
    repository.mkdir()
    # the hook's own environment must do: nothing of this checkout may be on its path
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["PRE_COMMIT_HOME"] = str(tmp_path / "pre-commit")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, check=False)

    run("git", "init", "-q", ".")
    write_mlp(repository / "model.onnx", gain=0.5)
    (repository / "notes.txt").write_text("not a model\n")
    run("git", "add", "-A")
    bad = run(PRE_COMMIT, "try-repo", str(ROOT), "gnelint")
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert "GNE101 error" in bad.stdout
    assert "notes.txt" not in bad.stdout
    write_mlp(repository / "model.onnx")
    run("git", "add", "-A")
    good = run(PRE_COMMIT, "try-repo", str(ROOT), "gnelint")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "Passed" in good.stdout
    assert run("git", "status", "--short").stdout.split() == ["A", "model.onnx", "A", "notes.txt"]
    # the other hook mends the file in place; pre-commit fails once because of that, and passes when it is added
    write_mlp(repository / "model.onnx", gain=0.5)
    run("git", "add", "-A")
    mended = run(PRE_COMMIT, "try-repo", str(ROOT), "gnelint-fix")
    assert mended.returncode == 1, mended.stdout + mended.stderr
    assert "files were modified by this hook" in mended.stdout
    run("git", "add", "-A")
    for hook in ("gnelint-fix", "gnelint"):
        done = run(PRE_COMMIT, "try-repo", str(ROOT), hook)
        assert done.returncode == 0, done.stdout + done.stderr
    # files of torch are the hook's too, but its environment has no torch unless the user adds it
    (repository / "model.pt2").write_bytes(b"")
    run("git", "add", "-A")
    torch = run(PRE_COMMIT, "try-repo", str(ROOT), "gnelint")
    assert torch.returncode == 1
    assert "model.pt2: needs PyTorch, which is not installed" in torch.stdout
