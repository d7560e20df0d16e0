"""What is killed in a run: each row is in the output once all the same, with the vector that a client gets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from bulk.conftest import (
    BAD,
    RayCluster,
    command,
    make_bucket,
    picture,
    rows,
    vectors,
    wait_until,
    write_pictures,
)
from pyarrow.fs import FileSelector
from vitriton import Client
from vitriton._storage import Storage
from vitriton_server import TritonServer, WatchPolicy


def _upload(bucket: str, count: int) -> dict[str, bytes]:
    """Pictures in a bucket, of which one of a hundred is none, by their URIs."""
    store = make_bucket(bucket)

    def write(number: int) -> tuple[str, bytes]:
        name, data = f"{bucket}/photos/{number % 10}/{number:06d}.jpg", BAD if number % 100 == 50 else picture(number)
        with store.open_output_stream(name) as file:
            file.write(data)
        return f"s3://{name}", data

    with ThreadPoolExecutor(8) as pool:
        return dict(pool.map(write, range(count)))


class _Chaos:
    """A job, whose parts are killed at random moments until it is done."""

    def __init__(self, arguments: list[object], output: str, cluster: RayCluster, tritons: list[TritonServer], dice):
        self._command = command(*arguments, "-o", output, "--json")
        self._output = output
        self._cluster = cluster
        self._tritons = tritons
        self._dice = dice

    def run(self, strikes: list[str], shards: int) -> list[str]:
        """Runs the job; each strike falls when a random number of files is there. Returns those that hit it."""
        job, struck = self._start(), []
        moments = sorted(self._dice.uniform(0.0, 0.8 * shards) for _ in strikes)
        for moment, strike in zip(moments, strikes, strict=True):
            wait_until(lambda: job.poll() is not None or self._files() >= moment)  # noqa: B023 - it is asked in this round alone
            if job.poll() is None:
                getattr(self, strike)(job)
                struck.append(strike)
                if strike == "driver":
                    job = self._start()
        _, told = job.communicate(timeout=500)
        assert job.returncode == 3, told
        return struck

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def _files(self) -> int:
        place = Storage().place(self._output)
        found = place.files.get_file_info(FileSelector(place.path, allow_not_found=True))
        return sum(info.base_name.startswith("part-") for info in found)

    def driver(self, job: subprocess.Popen[str]) -> None:
        job.kill()
        job.communicate()

    def actor(self, job: subprocess.Popen[str]) -> None:
        workers = self._cluster.workers()
        if workers:
            os.kill(self._dice.choice(workers), signal.SIGKILL)

    def node(self, job: subprocess.Popen[str]) -> None:
        self._cluster.tell("kill")
        self._cluster.tell("add")

    def triton(self, job: subprocess.Popen[str]) -> None:
        """It is started again, on its port."""
        os.kill(self._dice.choice(self._tritons).pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def tritons(subprocesses, repository) -> Iterator[list[TritonServer]]:
    """Two, which start again when they are killed."""
    policy = WatchPolicy(restart=True, max_restarts=100)
    with TritonServer(repository, watch=policy) as one, TritonServer(repository, watch=policy) as other:
        yield [one, other]


@pytest.mark.parametrize(
    ("count", "runs"), [(600, 1), pytest.param(20_000, 5, marks=[pytest.mark.long, pytest.mark.timeout(3000)])]
)
def test_whatever_is_killed_each_row_is_there_once(count, runs, s3, ray_cluster, tritons, dice):
    """A worker, a node, a Triton and the driver, in a random order, at random moments."""
    bucket, shard_rows = f"s3://faults-{count}", count // 60
    photos = _upload(f"faults-{count}", count)
    addresses = ",".join(triton.grpc_address for triton in tritons)
    arguments = [f"{bucket}/photos", "--url", addresses, "--ray-address", ray_cluster.address]
    arguments += ["--shard-rows", shard_rows]
    with Client(addresses, model="tiny") as client:
        results = client.embed(list(photos.values()), on_error="return")
    expected = {
        uri: result.error.errors[0].code if result.error else tuple(result.embedding.tolist())
        for uri, result in zip(photos, results, strict=True)
    }
    assert sum(isinstance(value, str) for value in expected.values()) == count // 100
    for run in range(runs):
        strikes = dice.sample(["actor", "node", "triton", "driver"], 4)
        chaos = _Chaos(arguments, f"{bucket}/run-{run}", ray_cluster, tritons, dice)
        struck = chaos.run(strikes, -(-count // shard_rows))
        print(f"run {run}: {', '.join(struck)}")
        assert len(struck) >= 3
        assert vectors(rows(f"{bucket}/run-{run}")) == expected


def test_ctrl_c_says_what_is_safe(ray_cluster, triton, tmp_path):
    """It is in the output; that the same command continues is seen above, where the driver is killed."""
    folder, out = write_pictures(tmp_path / "photos", 800), tmp_path / "out"
    arguments = [folder, "-o", out, "--url", triton.grpc_address, "--ray-address", ray_cluster.address]
    job = subprocess.Popen(command(*arguments, "--shard-rows", 20), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(out.glob("part-*"))) > 3)
    job.send_signal(signal.SIGINT)
    _, told = job.communicate(timeout=120)
    assert job.returncode == 130, told
    safe = re.fullmatch(
        rf"interrupted; (\d+) of 800 images are done and safe in {out}; repeat the command to continue",
        told.splitlines()[-1],
    )
    assert safe is not None, told
    assert int(safe[1]) <= len(rows(out))
