"""Configuration files: found upwards, checked key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnelint.config import Config, find_config, read_config
from gnelint.errors import UsageError

FULL = """
select = ["GNE1"]
extend-select = ["GNE901"]
ignore = ["GNE102"]
rules = ["more/rules"]
fail-on = "warning"
mode = "eval"
[params.GNE101]
tolerance = 0.5
"""


def test_everything(tmp_path: Path) -> None:
    path = tmp_path / "gnelint.toml"
    path.write_text(FULL)
    assert read_config(path) == Config(
        select=("GNE1",),
        extend_select=("GNE901",),
        ignore=("GNE102",),
        rules=(tmp_path / "more/rules",),
        fail_on="warning",
        mode="eval",
        params={"GNE101": {"tolerance": 0.5}},
        file=path,
    )


def test_the_nearest_file_upwards(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_config(inner).file is None or tmp_path not in find_config(inner).file.parents  # type: ignore[union-attr]
    (tmp_path / "gnelint.toml").write_text('mode = "eval"')
    assert find_config(inner).mode == "eval"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert find_config(inner).mode == "eval"
    (tmp_path / "a" / "pyproject.toml").write_text('[tool.gnelint]\nmode = "train"\n')
    assert find_config(inner).mode == "train"
    (tmp_path / "a" / "gnelint.toml").write_text('fail-on = "never"')
    assert find_config(inner) == Config(fail_on="never", file=tmp_path / "a" / "gnelint.toml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('selct = ["GNE1"]', 'unknown key "selct". Did you mean "select"?'),
        ("nonsense = 1", "Known keys: select"),
        ('select = "GNE1"', "select must be a list"),
        ("ignore = [1]", "ignore must be a list"),
        ('mode = "fast"', "One of: train, eval"),
        ("mode = []", "One of: train, eval"),
        ('fail-on = "panic"', "One of: error, warning"),
        ("params = 3", "one table a rule"),
        ("[params]\nGNE101 = 3", "one table a rule"),
        ("[params.GNE101]\ntolerance = [1]", "one table a rule"),
        ("select = [", "not valid TOML"),
    ],
)
@pytest.mark.parametrize("name", ["gnelint.toml", "pyproject.toml"])
def test_errors_name_the_file_and_the_key(tmp_path: Path, text: str, why: str, name: str) -> None:
    path = tmp_path / name
    if name == "pyproject.toml":
        text = text.replace("[params", "[tool.gnelint.params")
        text = text if text.startswith("[") else f"[tool.gnelint]\n{text}"
        why = why.replace('key "', 'key "tool.gnelint.')
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        find_config(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert why in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "nowhere.toml")


def test_a_table_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\ngnelint = 3\n")
    with pytest.raises(UsageError, match="must be a table"):
        find_config(tmp_path)
