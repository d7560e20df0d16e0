"""checkov finds no fault in what the chart renders, but those that have a reason."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import tools

# Checks that fail, the resources on which they may, and why
EXCEPTED = {
    "CKV_K8S_8": (r"Pod\..*-test", "the test's pod ends by itself"),
    "CKV_K8S_9": (r"Pod\..*-test", "nobody calls the test's pod"),
    "CKV_K8S_15": (r".*", "images have tags that do not change; a node must start pods when the registry is down"),
    "CKV_K8S_40": (
        r".*",
        "user 1000 owns the folders of the images and of the volumes of compose; `runAsUser` sets another",
    ),
    "CKV_K8S_43": (r".*", "a digest is a value (`image.digest`): only who builds the image knows it"),
}
_PATIENCE_S = 300


@pytest.mark.long
def test_checkov_finds_no_other_fault(tmp_path):
    """Over all files of values, each failed check has a reason, and each reason is needed."""
    for path in sorted((Path(__file__).parent / "values").glob("*.yaml")):
        (tmp_path / path.name).write_text(tools.template(yaml.safe_load(path.read_text())))
    command = [str(tools.ROOT / ".venv-checkov" / "bin" / "python"), "-m", "checkov.main", "--framework", "kubernetes"]
    command += ["--directory", str(tmp_path), "--output", "json", "--quiet", "--compact", "--skip-download"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["summary"]["passed"] > 1000, done.stderr
    failed = {(each["check_id"], each["resource"]): each for each in report["results"]["failed_checks"]}
    unexpected = [
        f"{check} {each['check_name']}: {resource} of {each['file_path']}"
        for (check, resource), each in failed.items()
        if check not in EXCEPTED or not re.fullmatch(EXCEPTED[check][0], resource)
    ]
    assert not unexpected, "\n".join(unexpected)
    assert {check for check, _ in failed} == set(EXCEPTED)
