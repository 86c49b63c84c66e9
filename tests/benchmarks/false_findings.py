"""What gnelint says of networks that others wrote and that train: small configurations of transformers, all families.

    python -m tests.benchmarks.false_findings [--only NAME ...] [--limit N] [--seconds N] [--out FILE]

Runs in an environment of its own with transformers beside torch==2.13.0 (`pip install --no-deps transformers`, and what
it asks for but torch). Each family's configuration is made small, its model is drawn as the package draws it, and
checked as a module with the stable rules. Every error and warning is listed, to be judged by a person: the judgements
are kept in `JUDGED`, by rule and family. Written to reports/benchmarks/false_findings.json and .md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import gnelint

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "false_findings.json"

SMALL: Mapping[str, Any] = {
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embed_dim": 64, "embedding_size": 64, "emb_dim": 64,
    "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "n_head": 4, "n_heads": 4,
    "num_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "head_dim": 16, "d_kv": 16,
    "intermediate_size": 128, "d_ff": 128, "n_inner": 128, "ffn_dim": 128, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128, "ffn_hidden_size": 128, "hidden_dim": 128, "vocab_size": 128, "image_size": 32,
    "patch_size": 8, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "max_position_embeddings": 64, "n_positions": 64, "d_inner": 128, "state_size": 8,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False, "n_ctx": 64,
    "first_k_dense_replace": 1, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "num_labels": 5,
}  # fmt: skip
"""Sizes by the names that configurations give them; set where a configuration has the name and a number there."""

HEADS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION")

JUDGED: Mapping[tuple[str, str], str] = {}
"""By rule and family: "right" or "false", and why."""


@dataclass(frozen=True)
class Row:
    """What was said of one family.

    Attributes:
        family: its `model_type`.
        model: the class.
        outcome: "checked", or why not: "not built", "not read", "too slow".
        findings: rule, severity, node and message of each error and warning.
        seconds: of the check.
        problem: of what was not checked.
    """

    family: str
    model: str
    outcome: str
    findings: tuple[tuple[str, str, str, str], ...] = ()
    seconds: float = 0.0
    problem: str = ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=120, help="of the processor, for a network")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # one of another build must not matter
    rows: list[Row] = []
    for family, cls, config in models(given.only):
        rows.append(checked(family, cls, config, given.seconds))
        print(line(rows[-1]), flush=True)
        write(rows, given.out)
        if sum(row.outcome == "checked" for row in rows) >= given.limit:
            break
    print(summary(rows))


def models(only: Sequence[str]) -> Iterator[tuple[str, type[nn.Module], Any]]:
    """One model class a family, with a small configuration."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    configurations = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    for family in sorted(configurations):
        if only and family not in only:
            continue
        try:
            kind = configurations[family]
            mappings = [getattr(auto, f"MODEL_FOR_{head}_MAPPING") for head in HEADS] + [auto.MODEL_MAPPING]
            cls = next(mapping[kind] for mapping in mappings if kind in mapping)
            yield family, cls[0] if isinstance(cls, tuple) else cls, small(kind())
        except Exception:  # a family without such a model, or whose configuration needs arguments
            continue


def small(config: Any) -> Any:
    """The configuration with the sizes of `SMALL`, and so its parts."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            small(value)
        elif name in SMALL and isinstance(value, (int, float)):
            setattr(config, name, SMALL[name])
    return config


def inputs(model: nn.Module) -> tuple[torch.Tensor]:
    """What its `forward` takes first: token ids or pixels."""
    if getattr(model, "main_input_name", "input_ids") == "pixel_values":
        return (torch.randn(2, 3, 32, 32),)
    return (torch.randint(3, 120, (2, 16)),)


def checked(family: str, cls: type[nn.Module], config: Any, seconds: int) -> Row:
    """Build and check one, within a time."""
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor, however busy the machine is
    started, stage = time.perf_counter(), "not built"
    try:
        torch.manual_seed(0)
        model = cls(config)
        stage = "not read"
        given = inputs(model)
        started = time.perf_counter()
        analysis = gnelint.check(model, given)
    except TimeoutError:
        return Row(family, cls.__name__, "too slow")
    except Exception as error:
        return Row(family, cls.__name__, stage, problem=f"{type(error).__name__}: {error}"[:160])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    said = tuple(
        (finding.rule, finding.severity, ", ".join(finding.nodes[:2]), finding.message[:200])
        for finding in analysis.findings
        if finding.severity in ("error", "warning")
    )
    return Row(family, cls.__name__, "checked", said, time.perf_counter() - started)


def _stop(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


def line(row: Row) -> str:
    """A row for the screen."""
    counts = Counter(f"{rule} {severity}" for rule, severity, _, _ in row.findings)
    said = ", ".join(f"{name} x{count}" for name, count in counts.items()) or row.problem or "nothing"
    return f"{row.family:<28}{row.outcome:<10}{row.seconds:6.1f} s  {said}"


def judgement(rule: str, family: str) -> str:
    """What a person said of a finding."""
    return JUDGED.get((rule, family), "not judged")


def summary(rows: Sequence[Row]) -> str:
    """The figures."""
    read = [row for row in rows if row.outcome == "checked"]
    told = [row for row in read if row.findings]
    false = [row for row in told if any(judgement(f[0], row.family).startswith("false") for f in row.findings)]
    errors = sum(any(f[1] == "error" for f in row.findings) for row in read)
    return (
        f"{len(rows)} families: {len(read)} checked, {len(told)} with an error or a warning ({errors} with an error), "
        f"{len(false)} of them judged false"
    )


def write(rows: Sequence[Row], out: Path) -> None:
    """The rows, and a table of what was said."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    lines = ["# What is said of small configurations of transformers", "", summary(rows), ""]
    lines += ["| family | model | rule | severity | times | first | judged |", "|---|---|---|---|--:|---|---|"]
    for row in rows:
        grouped: dict[tuple[str, str], list[tuple[str, str, str, str]]] = {}
        for finding in row.findings:
            grouped.setdefault(finding[:2], []).append(finding)
        for (rule, severity), found in grouped.items():
            cells = (row.family, row.model, rule, severity, str(len(found)), found[0][2], judgement(rule, row.family))
            lines.append(f"| {' | '.join(cells)} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
