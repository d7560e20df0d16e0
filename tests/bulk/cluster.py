"""A Ray cluster of several raylets on this machine, which lasts until its input ends.

    python cluster.py NODES

The head has no core, and each node one. It prints a line of JSON when it is ready, and one after each command of its
input: `kill`, which ends the raylet of a node as a crash of a machine would, and `add`, which adds a node.
"""

import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

OBJECT_STORE_BYTES = 80_000_000  # Ray's least is 75 MiB


def main(nodes: int) -> None:
    folder = tempfile.mkdtemp(prefix="vr-", dir="/tmp")  # names of sockets are short
    # RAY_TMPDIR: else it would be the cluster that other programs of this machine find
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_MEMORY_MONITOR": "1", "RAY_TMPDIR": folder}
    (Path(folder) / "ray").mkdir()
    warnings.simplefilter("ignore")
    from ray.cluster_utils import Cluster

    own = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    # a node is given up after some ten seconds without an answer, and not after half a minute
    settings = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": settings, **own})
    try:
        working = [cluster.add_node(num_cpus=1, **own) for _ in range(nodes)]
        cluster.wait_for_nodes()
        print(json.dumps({"address": cluster.address}), flush=True)
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(working.pop(0), allow_graceful=False)
            else:
                working.append(cluster.add_node(num_cpus=1, **own))
            print(json.dumps({"nodes": len(working)}), flush=True)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
