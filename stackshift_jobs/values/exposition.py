"""Metrics in Prometheus's text format, version 0.0.4.

https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

_IN_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def exposition(metrics: Iterable[Mapping[str, Any]]) -> str:
    """The text of `metrics`, as `daemon.metrics` has them: `{name, type, help, samples: [{labels,
    value}]}`, and of a histogram, whose last sample is the count, the `sum`."""
    lines: list[str] = []
    for metric in metrics:
        name = metric["name"]
        lines.append(f"# HELP {name} {metric['help'].translate(_IN_HELP)}")
        lines.append(f"# TYPE {name} {metric['type']}")
        samples, total = metric["samples"], metric.get("sum")
        each = name if total is None else f"{name}_bucket"
        lines += [_line(each, sample["labels"], sample["value"]) for sample in samples]
        if total is not None:
            lines.append(_line(f"{name}_sum", {}, total))
            lines.append(_line(f"{name}_count", {}, samples[-1]["value"]))
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{key}="{text.translate(_IN_LABEL)}"' for key, text in labels.items())
    return f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
