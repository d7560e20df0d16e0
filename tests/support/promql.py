"""What a PromQL expression asks for, and what a server exports, so that the two can be compared."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Series = tuple[str, Mapping[str, str]]

_STRING = r'"(?:[^"\\]|\\.)*"'
_SELECTOR = re.compile(rf"([a-zA-Z_:][\w:]*)\s*\{{((?:{_STRING}|[^{{}}\"])*)\}}")
_MATCHER = re.compile(rf"([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*({_STRING})")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = re.compile(r"(?<![\w.:])[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "by", "on"}
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")


@dataclass(frozen=True)
class Asked:
    """One metric of an expression, with the matchers (label, operator, value) that stand at it."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def answered_by(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels is among what is asked for."""
        return all(_holds(labels.get(label, ""), operator, value) for label, operator, value in self.matchers)


def asked(expression: str) -> list[Asked]:
    """Every metric that an expression names; Grafana's variables must have been put in."""
    found = []
    rest = expression
    for selector in _SELECTOR.finditer(expression):
        matchers = tuple((label, operator, text[1:-1]) for label, operator, text in _MATCHER.findall(selector[2]))
        found.append(Asked(selector[1], matchers))
        rest = rest.replace(selector[0], " ", 1)
    rest = re.sub(r"\[[^\]]*\]", " ", _GROUPING.sub(" ", re.sub(_STRING, " ", rest)))
    rest = re.sub(r"\b\d[\w.]*", " ", rest)  # numbers and durations
    return found + [Asked(name, ()) for name in _NAME.findall(rest) if name not in _WORDS]


def grouped_by(expression: str) -> set[str]:
    """The labels that an expression groups or joins by."""
    return {label.strip() for labels in _GROUPING.findall(expression) for label in labels.split(",") if label.strip()}


def exported(page: str) -> list[Series]:
    """The series of a page of metrics in Prometheus' text format."""
    series = []
    for line in page.splitlines():
        if line and not line.startswith("#"):
            sample = _SAMPLE.match(line)
            assert sample, line
            labels = {label: text[1:-1] for label, _, text in _MATCHER.findall(sample[2] or "")}
            series.append((sample[1], labels))
    return series


def by_name(series: Iterable[Series]) -> dict[str, list[Mapping[str, str]]]:
    """The labels of all series of each metric."""
    named = defaultdict(list)
    for name, labels in series:
        named[name].append(labels)
    return dict(named)


def _holds(value: str, operator: str, wanted: str) -> bool:
    if operator in ("=", "!="):
        return (value == wanted) is (operator == "=")
    return (re.fullmatch(wanted.replace("\\\\", "\\"), value) is not None) is (operator == "=~")
