"""The objects that the chart renders, and what they have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from chart import tools

Document = dict[str, Any]

VALUES = [path.stem for path in sorted((Path(__file__).parent / "values").glob("*.yaml"))]
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def read(name: str) -> Document:
    """The values in a file of the folder `values`."""
    return dict(yaml.safe_load((Path(__file__).parent / "values" / f"{name}.yaml").read_text()))


def render(values: Document, release: str = "photos") -> list[Document]:
    """What the chart makes of values."""
    return tools.documents(tools.template(values, release=release))


def pod_specs(objects: list[Document]) -> Iterator[tuple[Document, Document, Document]]:
    """The objects that have pods, with the metadata and the specification of these."""
    for one in objects:
        if one["kind"] == "Pod":
            yield one, one["metadata"], one["spec"]
        elif "template" in one.get("spec", {}):
            yield one, one["spec"]["template"]["metadata"], one["spec"]["template"]["spec"]


def containers(spec: Document) -> list[Document]:
    """The containers of a pod, those that run first included."""
    return [*spec.get("initContainers", ()), *spec["containers"]]


def bytes_of(quantity: str) -> float:
    """A quantity of memory, in bytes."""
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", quantity).groups()
    return float(number) * _UNITS[unit]


def of_kind(objects: list[Document], kind: str) -> list[Document]:
    """The objects of a kind."""
    return [one for one in objects if one["kind"] == kind]


def server(objects: list[Document]) -> Document:
    """The Deployment of the servers."""
    (found,) = [
        one
        for one in of_kind(objects, "Deployment")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    ]
    return found


def triton(objects: list[Document]) -> Document:
    """The container of a server."""
    return dict(server(objects)["spec"]["template"]["spec"]["containers"][0])
