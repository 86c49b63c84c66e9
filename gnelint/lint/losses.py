"""What may stand behind a network's output, and what each loss takes for it."""

from __future__ import annotations

LOSSES = ("cross_entropy", "nll", "bce", "bce_with_logits", "mse", "l1")
"""Under torch's names."""

OWN = {
    "cross_entropy": ("logits", "its own log-softmax"),
    "bce_with_logits": ("logits", "its own sigmoid"),
    "nll": ("log-probabilities", "nothing more"),
    "bce": ("probabilities", "logarithms"),
}
"""What a loss wants and what it does with it, of those that are particular about it."""
