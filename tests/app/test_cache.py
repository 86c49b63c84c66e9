"""The cache never gives a wrong answer: whatever an answer depends on makes another record.

Answers are asked for as the command line asks for them. A record that was found is told from an answer worked out by a
mark that is written into the records.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from gnelint.app import batch, cache
from gnelint.app.batch import answer
from gnelint.lint.selection import Settings
from gnelint.lint.suppression import Suppression
from gnelint.output.report import Checked, Unread
from gnelint.readers.inputs import InputSpec
from gnelint.readers.target import Target
from gnelint.settings.jobs import Job
from tests.test_cli import RULE, write_mlp

MARK = "from the cache"


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """Each answer as of a process of its own: rules and versions are read once a process."""
    yield
    batch.rules_of.cache_clear()
    cache._code.cache_clear()


def settle() -> None:
    """Files that were changed a moment ago are not trusted; wait until they count as old."""
    time.sleep(cache._SLACK / 1e9 + 0.02)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    model = write_mlp(tmp_path / "model.onnx", gain=0.5, depth=12, width=32)
    settle()
    return Job(Target("model.onnx", "onnx", path=model), cache_dir=tmp_path / "cache")


def ask(job: Job) -> Checked:
    batch.rules_of.cache_clear()
    cache._code.cache_clear()
    found = answer(job)
    assert isinstance(found, Checked)
    assert not found.warning
    return found


def mark(job: Job) -> None:
    """Write the mark into every record, as if it were the answer."""
    assert job.cache_dir is not None
    for path in (job.cache_dir / "records").iterdir():
        record = json.loads(path.read_text().partition("\n")[2])
        text = json.dumps({**record, "notes": [MARK]})
        path.write_text(f"{cache._signature(path.stem, text)}\n{text}")


def is_cached(job: Job) -> bool:
    return ask(job).notes == (MARK,)


def test_the_same_question_has_the_same_answer(job: Job) -> None:
    worked_out = answer(replace(job, cache_dir=None))
    assert ask(job) == worked_out
    assert ask(job) == worked_out
    mark(job)
    assert is_cached(job)
    assert not is_cached(replace(job, cache_dir=None))


def test_a_baseline_is_applied_to_what_the_cache_gives(job: Job) -> None:
    ask(job)
    mark(job)
    assert is_cached(replace(job, baseline=Path("some.json"), fail_on="never"))


def test_changed_weights(job: Job) -> None:
    assert job.target.path is not None
    before = ask(job)
    mark(job)
    state = job.target.path.stat()
    write_mlp(job.target.path, depth=12, width=32)  # the same size, and the time stamps set back
    os.utime(job.target.path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert job.target.path.stat().st_size == state.st_size
    after = ask(job)
    assert after.notes != (MARK,)
    assert (len(before.findings), len(after.findings)) == (13, 0)


@pytest.fixture
def external(tmp_path: Path) -> Job:
    model = onnx.load(str(write_mlp(tmp_path / "inline.onnx", gain=0.5, depth=12, width=32)))
    onnx.save(model, str(tmp_path / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    settle()
    return Job(Target("model.onnx", "onnx", path=tmp_path / "model.onnx"), cache_dir=tmp_path / "cache")


def test_changed_external_data(external: Job, tmp_path: Path) -> None:
    assert len(ask(external).findings) == 13
    mark(external)
    assert is_cached(external)
    data = tmp_path / "weights.bin"
    state = data.stat()
    good = onnx.load(str(write_mlp(tmp_path / "inline.onnx", depth=12, width=32)))
    onnx.save(good, str(tmp_path / "other.onnx"), save_as_external_data=True, location="other.bin", size_threshold=0)
    (tmp_path / "other.bin").replace(data)
    os.utime(data, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert data.stat().st_size == state.st_size
    assert ask(external).findings == []
    data.unlink()
    unread = answer(external)
    assert isinstance(unread, Unread)
    assert "missing" in unread.reason


def test_a_file_that_changes_while_it_is_read_is_not_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    read = batch.open_target

    def changing(*arguments: object, **more: object) -> object:
        graph = read(*arguments, **more)  # type: ignore[arg-type]
        assert job.target.path is not None
        job.target.path.touch()
        return graph

    monkeypatch.setattr(batch, "open_target", changing)
    ask(job)
    assert job.cache_dir is not None
    assert not job.cache_dir.exists()


def test_changed_options(job: Job) -> None:
    ask(job)
    mark(job)
    others = [
        replace(job, training=False),
        replace(job, inputs=(InputSpec((16, 32)),)),
        replace(job, target=replace(job.target, text="./model.onnx")),
        replace(job, suppressions=(Suppression(("GNE101",)),)),
        *(
            replace(job, settings=settings)
            for settings in (
                Settings(select=("GNE5",)), Settings(extend_select=("GNE5",)), Settings(ignore=("GNE5",)),
                Settings(never=("GNE5",)), Settings(preview=True), Settings(stage="trained"),
                Settings(params={"GNE101": {"tolerance": 9.0}}),
            )
        ),
    ]  # fmt: skip
    for other in others:
        assert not is_cached(other), other
        assert ask(other) == answer(replace(other, cache_dir=None))
    assert len(ask(others[3]).findings) == 1
    assert is_cached(job)


def test_changed_rules(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(RULE)
    own = replace(job, rules=(path,))
    ask(job)
    mark(job)
    assert len(ask(own).findings) == 13 + 12
    path.write_text(RULE.replace("relu(x)", "tanh(x)"))
    assert len(ask(own).findings) == 13
    assert is_cached(job)


def test_changed_code(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(job)
    mark(job)
    monkeypatch.setattr(cache, "__version__", "0.0.1")
    assert not is_cached(job)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"abc\n{}"])
def test_a_damaged_record_is_none(job: Job, content: bytes) -> None:
    right = ask(job)
    assert job.cache_dir is not None
    for path in (job.cache_dir / "records").iterdir():
        path.write_bytes(content)
    assert ask(job) == right
    (path,) = (job.cache_dir / "records").iterdir()
    whole = path.read_text()
    path.write_text(whole.replace("error", "info", 1))
    assert ask(job) == right
    assert path.read_text() == whole


def test_git_leaves_the_directory_alone(job: Job) -> None:
    ask(job)
    assert job.cache_dir is not None
    assert "*" in (job.cache_dir / ".gitignore").read_text().splitlines()
    assert (job.cache_dir / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


@pytest.mark.parametrize("record", [{}, [], {"entry": {"findings": []}}, {"data_files": {"/dev/zero": "x"}}])
def test_what_somebody_else_wrote_is_no_answer(job: Job, record: object) -> None:
    """Whatever they sign it with: a hash that anybody can make, or a secret of their own."""
    expected = ask(job)
    assert job.cache_dir is not None
    (path,) = (job.cache_dir / "records").iterdir()
    text = json.dumps(record)
    plain = hashlib.sha256(text.encode()).hexdigest()
    bound = hashlib.sha256(f"{path.stem}\n{text}".encode()).hexdigest()
    theirs = hmac.new(b"their secret", f"{path.stem}\n{text}".encode(), "sha256").hexdigest()
    for signature in (plain, bound, theirs, "", "\xff"):
        path.write_text(f"{signature}\n{text}")
        assert ask(job) == expected


def test_an_answer_to_another_question_is_none(job: Job) -> None:
    """The record of one set of options in the place of another's."""
    assert job.cache_dir is not None
    ask(job)
    (path,) = (job.cache_dir / "records").iterdir()
    other = replace(job, settings=Settings(select=("GNE9",)))
    ask(other)
    (place,) = set((job.cache_dir / "records").iterdir()) - {path}
    expected = answer(replace(other, cache_dir=None))
    place.write_bytes(path.read_bytes())
    assert ask(other) == expected


def test_the_oldest_records_go(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_RECORDS", 3)
    asked = [replace(job, target=replace(job.target, text=f"model{index}.onnx")) for index in range(5)]
    for one in asked:
        ask(one)
    mark(job)
    assert [is_cached(one) for one in reversed(asked)] == [True, True, True, False, False]


def test_a_directory_that_cannot_be_written_is_a_warning(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = answer(replace(job, cache_dir=tmp_path / "file"))
    assert isinstance(found, Checked)
    assert len(found.findings) == 13
    assert found.warning.startswith(f"{tmp_path / 'file'}: the cache cannot be written (")
    assert "--no-cache" in found.warning


def test_python_targets_are_not_kept(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "nets.py").write_text("import torch\nnet = torch.nn.Linear(4, 4)\n")
    target = Target("nets.py:net", "python", path=tmp_path / "nets.py", attribute="net")
    ask(Job(target, (InputSpec((2, 4)),), cache_dir=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_a_known_answer_is_told_without_numpy() -> None:
    program = (
        "import sys, gnelint.app.batch, gnelint.output.json, gnelint.output.text; sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("hashed", [True, False])
def test_a_file_is_hashed_for_those_who_show_it(job: Job, hashed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(batch, "sha256", lambda file: read.append(file) or "ab" * 32)
    found = ask(replace(job, cache_dir=None, hashed=hashed))
    assert found.entry["sha256"] == ("ab" * 32 if hashed else None)
    assert read == ([job.target.path] if hashed else [])
