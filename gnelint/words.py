"""Numbers as people read them, and the word that was meant."""

from __future__ import annotations

from collections.abc import Iterable


def plural(count: int, noun: str) -> str:
    """ "1 node", "2 nodes"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def rounded(bits: float) -> str:
    """A number of bits: "-110", "0.4"; a decimal only below ten, and no minus sign before a zero."""
    found = f"{bits:.0f}" if abs(bits) >= 10 else f"{bits:.1f}"
    return "0.0" if found == "-0.0" else found


def power(bits: float) -> str:
    """2 to the power of `bits`: "2^-110", "2^0.4"."""
    return f"2^{rounded(bits)}"


def size(count: int, gap: str = "") -> str:
    """A large number in few characters: "1.81M"."""
    for unit, whole in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= whole:
            return f"{count / whole:.3g}{gap}{unit}"
    return str(count)


def close(wanted: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known words that are most like this one, the closest first; cutoff as `difflib` has it."""
    import difflib  # for errors alone

    return difflib.get_close_matches(wanted, list(known), n=most, cutoff=cutoff)
