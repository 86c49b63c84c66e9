"""What configuration and command line together make of each target."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gnelint.errors import UsageError
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.lint.suppression import Suppression
from gnelint.readers.target import Target
from gnelint.settings.jobs import Job, Options, plan


def jobs(folder: Path, names: list[str], **options: Any) -> list[Job]:
    targets = [Target(str(folder / name), "onnx", path=folder / name) for name in names]
    for target in targets:
        assert target.path is not None
        target.path.parent.mkdir(parents=True, exist_ok=True)
    return plan(targets, Options(**options), load_rules)


def test_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = jobs(tmp_path, ["a.onnx"])
    assert (job.settings, job.training, job.fail_on, job.baseline) == (Settings(), True, "error", None)
    assert job.cache_dir == tmp_path / ".gnelint_cache"
    assert jobs(tmp_path, ["a.onnx"], cache=False)[0].cache_dir is None
    assert jobs(tmp_path, ["a.onnx"], cache_dir=Path("x"))[0].cache_dir == Path("x")


def test_each_target_has_the_configuration_nearest_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer = tmp_path / "project" / "inner", tmp_path / "project"
    inner.mkdir(parents=True)
    (outer / "gnelint.toml").write_text('fail-on = "warning"\n')
    (inner / "gnelint.toml").write_text('mode = "eval"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(inner)
    deep, shallow, away = jobs(tmp_path, ["project/inner/deep/a.onnx", "project/a.onnx", "elsewhere/a.onnx"])
    assert (deep.training, deep.fail_on, deep.cache_dir) == (False, "error", inner / ".gnelint_cache")
    assert (shallow.training, shallow.fail_on, shallow.cache_dir) == (True, "warning", outer / ".gnelint_cache")
    assert away.training is False  # there is none above it, so the working directory's holds
    fixed = tmp_path / "fixed.toml"
    fixed.write_text('fail-on = "info"\n')
    assert [job.fail_on for job in jobs(outer, ["a.onnx", "inner/a.onnx"], config=fixed)] == ["info", "info"]


CONFIG = """
select = ["GNE1"]
ignore = ["GNE102"]
fail-on = "warning"
[params.GNE101]
tolerance = 0.5
notice = 4
[per-target-ignores]
"old/*" = ["GNE101"]
[[overrides]]
targets = ["old/*", "big/*"]
select = ["GNE5"]
extend-select = ["GNE9"]
params = {GNE101 = {tolerance = 1.0}}
fail-on = "never"
[[overrides]]
targets = ["big/x.onnx"]
ignore = ["GNE501"]
mode = "eval"
[[suppress]]
rules = ["GNE101"]
nodes = ["fc0"]
[[suppress]]
rules = ["GNE5"]
targets = ["big/*"]
"""


def test_overrides(tmp_path: Path) -> None:
    (tmp_path / "gnelint.toml").write_text(CONFIG)
    plain, old, big = jobs(tmp_path, ["a.onnx", "old/a.onnx", "big/x.onnx"])
    params = {"GNE101": {"tolerance": 0.5, "notice": 4}}
    changed = {"GNE101": {"tolerance": 1.0, "notice": 4}}
    assert plain.settings == Settings(("GNE1",), ignore=("GNE102",), params=params)
    assert old.settings == Settings(("GNE5",), ("GNE9",), ("GNE102",), ("GNE101",), params=changed)
    assert big.settings == Settings(("GNE5",), ("GNE9",), ("GNE102", "GNE501"), params=changed)
    assert [job.fail_on for job in (plain, old, big)] == ["warning", "never", "never"]
    assert [job.training for job in (plain, old, big)] == [True, True, False]
    source = f"{tmp_path / 'gnelint.toml'}: suppress"
    everywhere = Suppression(("GNE101",), ("fc0",), f"{source}[0]")
    assert plain.suppressions == old.suppressions == (everywhere,)
    assert big.suppressions == (everywhere, Suppression(("GNE5",), (), f"{source}[1]"))


def test_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "gnelint.toml").write_text(CONFIG + '[[overrides]]\ntargets = ["*"]\nstage = "trained"\n')
    options = {"select": ("GNE4",), "extend_select": ("GNE2",), "ignore": ("GNE9",), "stage": "init", "mode": "train"}
    (job,) = jobs(tmp_path, ["big/x.onnx"], fail_on="info", baseline=Path("b.json"), **options)
    assert job.settings.select == ("GNE4",)
    assert job.settings.extend_select == ("GNE9", "GNE2")
    assert job.settings.ignore == ("GNE102", "GNE501", "GNE9")
    assert job.settings.stage == "init"
    assert (job.fail_on, job.training, job.baseline) == ("info", True, Path("b.json"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('ignore = ["GNE1O1"]', ": GNE1O1: no rule has this id, prefix or name. Did you mean GNE101?"),
        ('[per-target-ignores]\n"x/*" = ["GNE77"]', ": x/*: GNE77: no rule has this"),
        ('[[overrides]]\ntargets = ["x", "y"]\nselect = ["GNE77"]', ": x, y: GNE77: no rule has this"),
        ('[[suppress]]\nrules = ["ALL"]\n[[suppress]]\nrules = ["GNE77"]', ": suppress[1]: GNE77: no rule has this"),
        ("[params.GNE77]\na = 1", ": params: GNE77: no rule has this"),
        ("[params.GNE101]\ntolerence = 1", ": params.GNE101.tolerence: no such parameter. Did you mean tolerance?"),
        ('[[overrides]]\ntargets = ["x"]\nparams.GNE101.layers = "x"', ": x: params.GNE101.layers: 'x' is not of the"),
    ],
)
def test_rules_that_do_not_exist_are_refused_with_the_file(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "gnelint.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="^" + re.escape(f"{path}{why}")):
        jobs(tmp_path, ["a.onnx"])


def test_all_rules_that_a_file_names_in_vain_are_told_at_once(tmp_path: Path) -> None:
    text = (
        'select = ["GNE9999", "nope"]\nparams.GNE101 = {layer = 3, layers = "x"}\n[[suppress]]\nrules = ["foo-bar"]\n'
    )
    (tmp_path / "gnelint.toml").write_text(text)
    with pytest.raises(UsageError, match=re.escape("gnelint.toml: 5 things are wrong: (1) GNE9999: no rule")) as error:
        jobs(tmp_path, ["a.onnx"])
    for part in ("nope: no rule", "Did you mean layers?", "'x' is not of the type", "suppress[0]: foo-bar"):
        assert part in str(error.value)
