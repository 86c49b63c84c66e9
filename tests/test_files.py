"""Files that are written whole, what a killed write leaves, and texts that are not read without end."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gnelint.files import read_text, replacing, sha256, user_secret, write_whole

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and processes are of POSIX")


def _ended() -> int:
    """The number of a process that is over."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_write_left_goes_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "model[1].onnx"
    dead = tmp_path / f".{path.name}.{_ended()}-abc.tmp"
    alive = tmp_path / f".{path.name}.{os.getpid()}-abc.tmp"
    others = tmp_path / f".model1.onnx.{_ended()}-abc.tmp"
    for file in (dead, alive, others):
        file.write_text("half")
    write_whole(path, "whole")
    assert path.read_text() == "whole"
    assert not dead.exists()
    assert alive.exists()
    assert others.exists()


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("whole")
    with contextlib.suppress(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_texts_have_an_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("x" * 11)
    assert read_text(tmp_path / "long", 11) == "x" * 11
    for path, problem in ((Path("/dev/zero"), "regular"), (tmp_path / "pipe", "regular"), (tmp_path / "long", "larger"),
                          (tmp_path, "directory")):  # fmt: skip
        with pytest.raises(OSError, match=problem):
            read_text(path, 10)


def test_devices_have_no_hash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert sha256(Path("/dev/zero")) is None
    assert sha256(tmp_path / "pipe") is None


def test_a_secret_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    secret = user_secret()
    assert secret is not None
    assert len(secret) == 32
    assert user_secret() == secret
    file = next(tmp_path.rglob("secret"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o666)  # anybody may have written it
    assert user_secret() is None
