"""The order of the house holds, and what would break it is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import Module, circles, complaints, loose_citations, modules, running_up, without_words, wrong_torch


def made(**files: str) -> dict[str, Module]:
    """A package of these files; `__` in a name stands for a folder."""
    found = [Module(f"{name.replace('__', '/')}.py", text) for name, text in files.items()]
    return {module.name: module for module in found}


def test_nothing_breaks_the_order() -> None:
    assert complaints(modules()) == []


@pytest.mark.parametrize(
    "text",
    [
        "from gnelint.lint.engine import lint",
        "def f():\n    from gnelint.lint import engine",
        "import gnelint.lint.engine",
    ],
)
def test_an_import_that_runs_up_is_told_with_file_and_line(text: str) -> None:
    known = made(theory__rows=f'"""."""\n\n{text}\n', lint__engine='"""."""\n')
    (line,) = running_up(known)
    assert line.startswith("gnelint/theory/rows.py:")
    assert "theory imports lint" in line


def test_parts_of_one_layer_do_not_read_each_other() -> None:
    known = made(theory__rows="from gnelint.onnxfile.wire import fields\n", onnxfile__wire="")
    assert len(list(running_up(known))) == 1


def test_an_import_that_runs_down_is_fine() -> None:
    known = made(lint__engine="from gnelint.theory.rows import rows\n", theory__rows="")
    assert not list(running_up(known))


def test_a_part_without_a_layer_is_told() -> None:
    assert "gnelint/attic is in no layer" in next(running_up(made(attic__old="")))


def test_a_circle_is_told_even_where_an_import_is_late() -> None:
    known = made(
        lint__a="from gnelint.lint import b\n",
        lint__b="def f():\n    from gnelint.lint.c import x\n",
        lint__c="import gnelint.lint.a\n",
    )
    assert list(circles(known)) == ["a circle of imports: gnelint.lint.a, gnelint.lint.b, gnelint.lint.c"]


def test_a_docstring_that_is_missing_or_to_be_written_is_told() -> None:
    known = made(lint__a="x = 1\n", lint__b='"""TODO."""\n', lint__c='"""What it is."""\n')
    assert list(without_words(known)) == [
        "gnelint/lint/a.py: no docstring",
        "gnelint/lint/b.py: docstring to be written",
    ]


def test_torch_is_told_where_it_must_not_be() -> None:
    known = made(lint__a="from torch import nn\n", measure__b="import torch\n", readers__torch__c="import torch\n")
    assert list(wrong_torch(known)) == ["gnelint/lint/a.py:1: imports torch"]


def test_a_citation_that_points_nowhere_is_told() -> None:
    known = made(components__a='"""As in theory 2.1.\n\nAnd theory 7.3."""\n')
    theory = "# Theory\n\n## 2 Blocks\n\n### 2.1 Serial\n"
    assert list(loose_citations(known, theory)) == [
        "gnelint/components/a.py:3: theory 7.3 is no heading of gnelint/theory/README.md"
    ]


def test_the_tests_mirror_the_package() -> None:
    """Each folder of tests that is called like a part of the package is one of its folders, down to the last."""
    tests = Path(__file__).parent
    parts = {module.part for module in modules().values()}
    for folder in (path for part in parts for path in (tests / part).rglob("*") if path.is_dir()):
        relative = folder.relative_to(tests)
        if folder.name not in ("__pycache__", "snapshots", "schemas"):
            assert (tests.parent / "gnelint" / relative).is_dir(), f"tests/{relative} mirrors no folder of the package"
