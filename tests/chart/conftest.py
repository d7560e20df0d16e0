"""The tests of the Helm chart, in the environment of `make test-chart`."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("kubernetes_validate") is None:  # not in the environment of `make test-chart`
    collect_ignore_glob = ["test_*.py"]
