"""A job whose encoder takes no time, for what the job itself takes: `python asleep.py TABLE OUTPUT ADDRESS`.

It prints a line of JSON: the peak memory of the driver in bytes, and the seconds to the first new file.
"""

import json
import resource
import sys
import time
from dataclasses import replace

from vitriton._storage import Storage
from vitriton_ray import _run
from vitriton_ray._inputs import find_inputs
from vitriton_ray._job import BulkJob
from vitriton_ray._options import RayOptions
from vitriton_ray._output import BulkOutput
from vitriton_ray._progress import Progress
from vitriton_ray.commands.bench import DIMENSION, Sleeping


def main(table: str, folder: str, address: str) -> None:
    began_s = time.monotonic()
    options = RayOptions(output=folder, texts=table, ray_address=address, quiet=True)
    storage = Storage()
    output, inputs = BulkOutput(storage, folder), find_inputs(storage, options)
    job = BulkJob(
        sources=inputs.sources,
        kind=inputs.kind,
        value_column=inputs.value_column,
        id_column=inputs.id_column,
        manifest_sha256=inputs.sha256,
        model="asleep",
        fingerprint="asleep",
        dimension=DIMENSION,
    )
    first_s: list[float] = []
    add = Progress.add
    Progress.add = lambda self, report: (first_s.append(time.monotonic() - began_s), add(self, report))[1]
    plan = _run._plan_of(options, output, job) or _run._plan(options, storage, inputs, job, output)
    before, _ = _run._carry_out(options, replace(job), plan, Sleeping(row_s=0.0), output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak, "first_s": first_s[0], "before": before, "rows": plan.rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
