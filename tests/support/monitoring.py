"""What the observability files ask Prometheus for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "vitriton.json"

# As Grafana puts them in, with everything chosen.
_CHOSEN = {"$service": ".+", "$name": ".+", "$__rate_interval": "1m"}


def rules() -> list[dict[str, Any]]:
    """The rules of Prometheus, recordings and alerts."""
    files = (DOCKER / "prometheus" / "objectives.yml", DOCKER / "prometheus" / "alerts.yml")
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that show something, as Grafana reads them."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Everything that is asked for, by the place where it stands."""
    asked = {f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            asked[f"panel {panel['title']}, {target['refId']}"] = chosen(target["expr"])
    return asked


def chosen(expression: str) -> str:
    """An expression of the dashboard with Grafana's variables put in."""
    for variable, value in _CHOSEN.items():
        expression = expression.replace(variable, value)
    return expression


def triton_options(option: str, **settings: str) -> list[str]:
    """What the compose file gives to Triton as `option`, with these settings."""
    command = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["triton"]["command"]
    for name, value in settings.items():
        command = re.sub(rf"\$\{{{name}:-[^}}]*\}}", value, command)
    return [word.rstrip("}") for word in re.findall(rf"{option}=\S+", command)]
