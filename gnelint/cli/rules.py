"""`gnelint rules`, `gnelint rules test` and `gnelint rule`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gnelint.cli import options
from gnelint.cli.terminal import EXIT_CLEAN, EXIT_FINDINGS, complain, in_colour
from gnelint.errors import UsageError


@click.group("rules", invoke_without_command=True)
@options.more_rules
@click.option(
    "--check",
    "checked",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Demand of rule files what CI does.",
)
@click.option("--new", metavar="NAME", help="Write NAME.yaml here, a rule to start from, with networks for its tests.")
@click.option(
    "--format", type=click.Choice(("text", "markdown", "json")), default="text", help="How to list them [text]."
)
@click.pass_context
def rules_group(
    context: click.Context, paths: tuple[Path, ...], checked: tuple[Path, ...], new: str | None, format: str
) -> None:
    """List all rules."""
    if context.invoked_subcommand is not None:
        if paths or checked or new is not None:
            raise UsageError("rules test", "takes files and ids, no options")
        return
    if new is not None:
        _start_rule(new)
        return
    if checked:
        context.exit(_run_examples([str(path) for path in checked], demanding=True))
    from gnelint.lint.rulefile import load_rules
    from gnelint.output.rules import as_json, catalogue, listing

    loaded = load_rules(paths)
    for warning in loaded.warnings:
        complain(warning)
    shown = {"text": listing, "markdown": catalogue, "json": as_json}[format](loaded.rules)
    click.echo(shown, nl=False)


def _start_rule(name: str) -> None:
    from gnelint.app.new_rule import new_rule
    from gnelint.files import write_whole

    files = new_rule(name, Path.cwd())
    for path, text in files.items():
        write_whole(path, text)
    rule, *networks = (path.name for path in files)
    click.echo(f"{rule} and {', '.join(networks)}: written. Next: gnelint rules --check {rule}")


@rules_group.command("test")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.pass_context
def test_rules(context: click.Context, files: tuple[str, ...]) -> None:
    """Run the tests in rule files; one of gnelint's own rules may be given by its id.

    Exits with 1 if a test fails.
    """
    context.exit(_run_examples(files))


def _run_examples(texts: Sequence[str], *, demanding: bool = False) -> int:
    from gnelint.app.rule_tests import Examples, is_exported

    examples = Examples.of(texts)
    for warning in examples.rules.warnings:
        complain(warning)
    failed = 0
    for rule in examples.chosen:
        if not rule.tests and not demanding:
            click.echo(f"{rule.id}  valid, but it has no tests")
        asked = [examples.names(rule), *([examples.demands(rule)] if demanding else [])]
        runs = [(test, False) for test in rule.tests]
        if demanding:
            runs += [(test, True) for test in rule.tests if is_exported(test)]
        for outcome in (*asked, *(examples.run(rule, test, exported=exported) for test, exported in runs)):
            failed += not outcome.holds
            for line in outcome.lines:
                click.echo(line)
    click.echo(f"{failed} failed" if failed else "all hold")
    return EXIT_FINDINGS if failed else EXIT_CLEAN


@click.command("rule")
@click.argument("rule_id", metavar="RULE")
@options.more_rules
def explain_rule(rule_id: str, paths: tuple[Path, ...]) -> None:
    """Explain one rule, given by its id or name."""
    from gnelint.lint.rulefile import load_rules
    from gnelint.lint.selection import no_such_rule
    from gnelint.output.explain import explanation, for_terminal

    loaded = load_rules(paths)
    rule = loaded.get(rule_id)
    if rule is None:
        raise no_such_rule(rule_id, loaded)
    text = explanation(rule)
    click.echo(for_terminal(text) if in_colour(None) else text, nl=False)
