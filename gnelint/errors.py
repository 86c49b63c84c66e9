"""The errors a person sees: one line saying which file, what is wrong and what to do next."""

from __future__ import annotations


class GnelintError(Exception):
    """Something the tool was asked to do and cannot; the command line prints it and exits with 2.

    Attributes:
        subject: the file, node, rule or option it is about.
        problem: what is wrong, a clause without a full stop.
        advice: what to do next, a sentence; "" if there is nothing to say.
    """

    def __init__(self, subject: str, problem: str, advice: str = "") -> None:
        self.subject = subject
        self.problem = problem
        self.advice = advice
        stop = "" if problem.endswith(("?", ".")) else "."
        super().__init__(f"{subject}: {problem}{stop} {advice}".rstrip())


class ModelError(GnelintError):
    """A model that cannot be read: missing, damaged, hostile, or not to be traced."""


class UnreadableError(Exception):
    """Why a model cannot be read; the reader adds which file it is.

    Attributes:
        problem: what is wrong, a clause.
        advice: what to do, a sentence.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        self.problem = problem
        self.advice = advice
        super().__init__(problem)


class RuleError(GnelintError):
    """A rule file that is not valid; the subject is "file:line"."""


class UsageError(GnelintError):
    """Arguments or configuration that make no sense."""


class UnmeasuredError(GnelintError):
    """A network that was to be measured and cannot be, or not in the time that was allowed."""


class DefectError(GnelintError):
    """A defect of gnelint itself."""

    def __init__(self, subject: str, error: Exception) -> None:
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        super().__init__(subject, f"gnelint itself failed ({cause})", "Please report this; -v shows where.")


class GradientNormError(AssertionError):
    """A network has findings that a user's test does not allow; the message lists them with what to do."""
