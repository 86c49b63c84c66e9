"""Configuration files: found upwards, checked key by key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gnelint.errors import UsageError
from gnelint.settings.config import Accepted, Config, Override, find_config, read_config

FULL = """
select = ["GNE1"]
extend-select = ["GNE901"]
ignore = ["GNE102"]
rules = ["more/rules"]
fail-on = "warning"
mode = "eval"
stage = "init"
preview = true
baseline = "known.json"
cache-dir = "somewhere"
[params.GNE101]
tolerance = 0.5
[per-target-ignores]
"old/*.onnx" = ["gne5"]
[[overrides]]
targets = ["big/*"]
select = ["GNE5"]
extend-select = ["GNE9"]
ignore = ["GNE502"]
fail-on = "never"
mode = "train"
stage = "trained"
params = {GNE101 = {tolerance = 1.0}}
[[suppress]]
rules = ["gne101"]
nodes = ["layers.0.*"]
targets = ["big/*"]
reason = "the stem is rescaled"
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
        stage="init",
        preview=True,
        baseline=tmp_path / "known.json",
        cache_dir=tmp_path / "somewhere",
        params={"GNE101": {"tolerance": 0.5}},
        overrides=(
            Override(targets=("old/*.onnx",), never=("gne5",)),
            Override(
                targets=("big/*",), select=("GNE5",), extend_select=("GNE9",), ignore=("GNE502",), fail_on="never",
                mode="train", stage="trained", params={"GNE101": {"tolerance": 1.0}},
            ),
        ),
        suppress=(Accepted(("gne101",), ("layers.0.*",), ("big/*",), "the stem is rescaled"),),
        file=path,
    )  # fmt: skip


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
        ("preview = 1", "preview is 1. Write true or false"),
        ('stage = "late"', "One of: auto, init, trained"),
        ("baseline = 3", "baseline must be a text"),
        ("[per-target-ignores]\na = 3", 'per-target-ignores."a" must be a list of texts'),
        ("per-target-ignores = 3", "per-target-ignores must be a table"),
        ("overrides = 3", "overrides must be a list of tables"),
        ("[overrides]\na = 3", "overrides must be a list of tables"),
        ('[[overrides]]\nignore = ["GNE1"]', "overrides[0].targets is missing or empty"),
        ('[[overrides]]\ntargets = ["a"]\ntargts = 1', 'overrides[0].targts". Did you mean "targets"?'),
        ('[[suppress]]\nnodes = ["a"]', "suppress[0].rules is missing or empty"),
        ('[[suppress]]\nrules = ["GNE1"]\n[[suppress]]\nrule = []', 'suppress[1].rule". Did you mean "rules"?'),
        ('[[suppress]]\nrules = ["GNE1"]\nnodes = "a"', "suppress[0].nodes must be a list of texts"),
        ("suppress = [1]", "suppress[0] must be a table"),
    ],
)
@pytest.mark.parametrize("name", ["gnelint.toml", "pyproject.toml"])
def test_errors_name_the_file_and_the_key(tmp_path: Path, text: str, why: str, name: str) -> None:
    path = tmp_path / name
    if name == "pyproject.toml":
        text = re.sub(r"^(\[+)(?=[a-z])", r"\1tool.gnelint.", text, flags=re.M | re.I)
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


@pytest.mark.parametrize(
    ("pattern", "target", "applies"),
    [
        ("models/*.onnx", "models/a.onnx", True),
        ("models/*.onnx", "other/a.onnx", False),
        ("models/**/*.onnx", "models/a.onnx", True),
        ("models/**/*.onnx", "models/deep/er/a.onnx", True),
        ("a.onnx", "models/a.onnx", True),
        ("*.pt2", "models/a.onnx", False),
        ("package.*", "package.module:Net", True),
        ("code/*.py", "code/nets.py:make", True),
    ],
)
def test_globs_over_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, target: str, applies: bool
) -> None:
    folder = tmp_path / "with [brackets]"
    (folder / "below").mkdir(parents=True)
    config = Config(file=folder / "gnelint.toml")
    monkeypatch.chdir(folder)
    assert config.applies([pattern], target) is applies
    if "/" in target:  # a path means the same file wherever gnelint is run
        monkeypatch.chdir(folder / "below")
        assert config.applies(["no", pattern], f"../{target}") is applies
        assert config.applies([pattern], target) is (applies and pattern == "a.onnx")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "gnelint.toml"
    path.write_text(
        'selekt = []\nfail-on = "fatal"\npreview = 1\nbaseline = "/etc/passwd"\noverrides = [3]\n[params]\nGNE101 = 3\n'
    )
    with pytest.raises(UsageError) as error:
        read_config(path)
    text = str(error.value)
    assert text.startswith(f'{path}: 6 things are wrong: (1) unknown key "selekt". Did you mean "select"? (2) ')
    for part in ("fail-on is 'fatal'", "preview is 1", 'names "/etc/passwd"', "overrides[0] must be a table", "params"):
        assert part in text
    assert text.count(str(path)) == 1
