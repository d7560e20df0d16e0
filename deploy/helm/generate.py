"""Writes what the chart has from elsewhere: the copies in vitriton/files, and the values in vitriton/README.md.

Usage: python deploy/helm/generate.py

Helm reads no file outside of a chart, so alerts, dashboard and gateway are copied. A link would work with
`helm package`, but not where only the folder of the chart is checked out. A test compares the copies with their
originals.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CHART = Path(__file__).parent / "vitriton"
MARK = "<!-- made by make chart from values.yaml -->\n"

COPIES = {
    "alerts.yml": "docker/prometheus/alerts.yml",
    "dashboard.json": "docker/grafana/dashboards/vitriton.json",
    "gateway.sh": "docker/gateway/gateway.sh",
    "nginx.conf.template": "docker/gateway/nginx.conf.template",
    "cat.jpg": "export/src/vitriton_export/photos/cat.jpg",
}


@dataclass(frozen=True)
class Value:
    """A setting of the chart.

    Attributes:
        name: the name, with those of the maps that it is in: `image.tag`.
        default: the default, as YAML on one line.
        text: the comment above it; empty if there is none.
    """

    name: str
    default: str
    text: str


def values(text: str) -> list[Value]:
    """The settings in a values.yaml, in its order. A map with a comment is one setting."""
    lines = text.splitlines()
    found = list(_values(yaml.compose(text), "", lines))
    texts: dict[str, str] = {}
    for value in found:  # the tag of each image has the description of the first
        texts.setdefault(_kind(value.name), value.text)
    return [Value(value.name, value.default, value.text or texts[_kind(value.name)]) for value in found]


def _kind(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _values(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        text = _comment(lines, key.start_mark.line)
        if isinstance(value, yaml.MappingNode) and value.value and not (text and _is_leaf(value)):
            if text:
                yield Value(name, "", text)
            yield from _values(value, f"{name}.", lines)
        else:
            yield Value(name, _shown(value), text)


def _is_leaf(node: yaml.MappingNode) -> bool:
    """Whether the map belongs to the Kubernetes API: it is on one line, or none of its values goes on on another."""
    return node.flow_style or all(isinstance(value, yaml.ScalarNode) or value.flow_style for _, value in node.value)


def _shown(node: yaml.Node) -> str:
    built = yaml.constructor.SafeConstructor().construct_document(node)
    if built is None:
        return ""
    dumped = str(yaml.safe_dump(built, default_flow_style=True, width=10**6))
    return dumped.strip().removesuffix("\n...")


def _comment(lines: list[str], number: int) -> str:
    found: list[str] = []
    while number > 0 and lines[number - 1].lstrip().startswith("#"):
        number -= 1
        found.insert(0, lines[number].lstrip().removeprefix("#").strip())
    return " ".join(found)


def table(found: list[Value]) -> str:
    """The settings as a table of Markdown."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in found:
        default = f"`{value.default}`" if value.default else ""
        rows.append(f"| `{value.name}` | {default} | {value.text} |".replace("  ", " "))
    return "\n".join(rows) + "\n"


def readme() -> str:
    """The chart's README.md, with the table of the values as they are now."""
    before, _, _ = (CHART / "README.md").read_text().partition(MARK)
    return f"{before}{MARK}\n{table(values((CHART / 'values.yaml').read_text()))}"


def main() -> None:
    """Writes the copies and the README."""
    for name, original in COPIES.items():
        shutil.copyfile(ROOT / original, CHART / "files" / name)
    (CHART / "README.md").write_text(readme())


if __name__ == "__main__":
    main()
