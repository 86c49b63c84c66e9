"""Numbers and names as the page shows them."""

from __future__ import annotations

import math
import re

from markupsafe import Markup

from gnelint.lint.places import visible
from gnelint.words import rounded

LONG = 64
"""Characters of a name that are shown; the table of layers has the whole of it."""

_EXPONENT = re.compile(r"(?:\.0+|(?<=\.[0-9])0+)?e(-?)\+?0*([0-9]+)")
_SUPERSCRIPTS = str.maketrans("0123456789-.", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·")
_ISOLATE, _END = "\u2068", "\u2069"


def short(text: str, width: int = LONG) -> str:
    """A name in at most `width` characters, its middle left out."""
    shown = visible(text[: 4 * width] + text[-4 * width :] if len(text) > 8 * width else text)
    if len(shown) <= width:
        return shown
    tail = (width - 1) // 2
    return f"{shown[: width - 1 - tail]}…{shown[len(shown) - tail :]}"


def isolated(text: str, width: int = LONG) -> str:
    """A short name for plain text, where its direction must not reach what stands around it."""
    return f"{_ISOLATE}{short(text, width)}{_END}"


def tail(name: str, width: int) -> str:
    """The last part of a qualified name."""
    return short(name.rstrip("./").replace("/", ".").rpartition(".")[2] or name, width)


def bits_text(bits: float | None) -> str:
    """A number of bits: "−102", "0.4"."""
    if bits is None:
        return "unknown"
    return signed(rounded(bits))


def signed(text: str) -> str:
    """The number with a minus sign of its own, and none before a zero."""
    return text[1:] if text.strip("-0.") == "" and text.startswith("-") else text.replace("-", "−")


def power(bits: float | None) -> Markup:
    """2 to the power of `bits`."""
    if bits is None:
        return Markup("unknown")
    return Markup("2<sup>{}</sup>").format(bits_text(bits))


def power_text(bits: float | None) -> str:
    """The same in plain text."""
    if bits is None:
        return "unknown"
    return "2" + bits_text(bits).replace("−", "-").translate(_SUPERSCRIPTS)


def decimal(bits: float) -> Markup:
    """2 to the power of `bits`, as people write numbers: 0.12 or 3.6 × 10^-16."""
    tens = bits * math.log10(2.0)
    if -3 <= tens < 5:
        return Markup("{}").format(f"{2.0**bits:.3g}")
    exponent = math.floor(tens)
    mantissa = f"{10.0 ** (tens - exponent):.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    return Markup("{}\u00a0×\u00a010<sup>{}</sup>").format(mantissa, signed(str(exponent)))


def number(value: float | None, digits: int = 3) -> str:
    """A number in few digits; nothing for one that is not known."""
    if value is None:
        return ""
    form = f"{digits - 1}e" if 0.0 < abs(value) < 1e-3 else f"{digits}g"
    return signed(_EXPONENT.sub(r"e\1\2", f"{value + 0.0:.{form}}"))


def factor(value: float | None) -> str:
    """What a block multiplies by."""
    return f"×{number(value)}" if value is not None else "unknown"


def log2(value: float | None) -> float | None:
    """The logarithm of a positive number, else None."""
    return math.log2(value) if value is not None and value > 0.0 else None


def count(amount: int, noun: str) -> str:
    """ "1 node", "2 nodes"."""
    return f"{amount:,} {noun}{'s' * (amount != 1)}"


def joined(names: list[str]) -> str:
    """ "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
