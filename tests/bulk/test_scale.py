"""Many rows: the memory of the driver does not grow with them, and a run that continues begins soon."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HERE = Path(__file__).parent


def _run(table, output, cluster):
    done = subprocess.run(
        [sys.executable, HERE / "asleep.py", table, output, cluster.address],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_a_million_rows(ray_cluster, tmp_path):
    """Ten thousand need little less memory; the second half of the million starts within half a minute."""
    peaks = {}
    for rows in (10_000, 1_000_000):
        table = tmp_path / f"{rows}.parquet"
        ids = pa.array(f"id-{number:09d}" for number in range(rows))
        pq.write_table(pa.table({"id": ids, "text": pa.array(["a text"] * rows)}), table)
        said = _run(table, tmp_path / f"out-{rows}", ray_cluster)
        peaks[rows] = said["peak_bytes"]
    files = sorted((tmp_path / "out-1000000").glob("*.parquet"))
    for path in files[::2]:
        path.unlink()
    said = _run(table, tmp_path / "out-1000000", ray_cluster)
    print(f"peaks: {peaks}; the second half began after {said['first_s']:.1f} s")
    assert 0.45 < said["before"] / said["rows"] < 0.55
    assert peaks[1_000_000] - peaks[10_000] < 128 * 2**20  # Ray remembers a thousand tasks
    assert said["first_s"] < 30
