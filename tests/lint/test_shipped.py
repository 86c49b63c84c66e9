"""The copy of the rules that ship: the same rules, read only where nobody else can have written it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from gnelint.lint.rulefile import builtin_directory, load_rules
from gnelint.lint.shipped import shipped_documents
from gnelint.lint.yaml_marks import parse

FILES = sorted(builtin_directory().glob("*.yaml"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def copies(cache: Path) -> list[Path]:
    return sorted(cache.rglob("rules-*.json"))


def test_the_copy_says_what_the_files_say(cache: Path) -> None:
    parsed = [parse(file.read_text(encoding="utf-8"), str(file)) for file in FILES]
    for _ in range(2):
        assert shipped_documents(FILES) == parsed
    assert len(copies(cache)) == 1


def test_every_expression_compiles_from_the_copy() -> None:
    for _ in range(2):
        for rule in load_rules().rules:
            assert rule.program.message is not None


@pytest.mark.parametrize("text", ["", "not JSON", "\x00"])
def test_a_damaged_copy_is_written_again(cache: Path, text: str) -> None:
    expected = [document.data for document in shipped_documents(FILES)]
    copies(cache)[0].write_text(text)
    assert [document.data for document in shipped_documents(FILES)] == expected
    assert json.loads(copies(cache)[0].read_text()) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="has no such modes")
@pytest.mark.parametrize("what", ["file", "directory", "link"])
def test_a_copy_that_others_may_write_is_not_read(cache: Path, what: str) -> None:
    shipped_documents(FILES)
    copy = copies(cache)[0]
    copy.write_text(json.dumps(["not a rule"] * len(FILES)))
    if what == "link":
        elsewhere = cache / "elsewhere.json"
        copy.rename(elsewhere)
        copy.symlink_to(elsewhere)
    else:
        (copy if what == "file" else copy.parent).chmod(0o777)
    assert shipped_documents(FILES)[0].data["id"] == "GNE101"


def test_another_text_has_another_copy(cache: Path, tmp_path: Path) -> None:
    shipped_documents(FILES)
    changed = tmp_path / FILES[0].name
    changed.write_text(FILES[0].read_text(encoding="utf-8").replace("id: GNE101", "id: GNE199"), encoding="utf-8")
    assert shipped_documents([changed, *FILES[1:]])[0].data["id"] == "GNE199"
    assert len(copies(cache)) == 2


def test_old_copies_go(cache: Path, tmp_path: Path) -> None:
    changed = tmp_path / FILES[0].name
    for number in range(6):
        changed.write_text(FILES[0].read_text(encoding="utf-8") + f"# {number}\n", encoding="utf-8")
        shipped_documents([changed])
        os.utime(copies(cache)[-1])
    assert len(copies(cache)) == 4


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="root writes anywhere")
def test_a_directory_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.chmod(0o500)
    assert shipped_documents(FILES)[0].data["id"] == "GNE101"
    cache.chmod(0o700)
