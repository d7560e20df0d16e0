"""A session: exports, serves, verifies and loads a model, and measures the limits of the machine.

The document is written after each stage, so that a session that is cut short keeps what it has.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from vitriton._repository.names import PIXELS, step_names
from vitriton.preprocessing import PreprocessSpec, preprocess
from vitriton_bench import _machine, _photos
from vitriton_bench._document import FORMAT, Record
from vitriton_bench._errors import BenchError
from vitriton_bench._load.measure import measure
from vitriton_bench._load.names import load
from vitriton_bench._load.perf_analyzer import long_enough
from vitriton_bench._load.perf_analyzer import run as run_analyzer
from vitriton_bench._load.point import Point, Protocol
from vitriton_bench._load.target import Target
from vitriton_bench._payload import IMAGE, find_images, write_payload
from vitriton_bench._perf_analyzer import program
from vitriton_bench._perf_analyzer.process import last_words
from vitriton_bench._perf_analyzer.program import PerfAnalyzer
from vitriton_bench._sweep.server import serve
from vitriton_server import TritonServer, usable_cores

from report.clock import Clock
from report.exports.checkpoint import random_vit
from report.limits import matrix_products
from report.session.decoding import decoded_per_s
from report.session.plan import SessionPlan, Variant
from report.session.stages import Stages
from report.sides import reference
from report.sides.onnx_runtime import Bare, read_spec

_END_S = 15.0  # of the budget: the end of a server
_PREPARE_S, _EXPORT_S, _START_S, _VERIFY_S, _LIMITS_S = 120.0, 180.0, 120.0, 120.0, 60.0
_ENGINES_S = 360.0  # TensorRT builds them when the server starts
_LOAD_S = 30.0  # beside the load itself
_BROKEN = 3  # the exit code of `vitriton verify` for an output outside its limit
_JPEG, _PIXELS, _GRAPH = "from JPEG", "ready pixels", "graph alone"
# The cores for each process of the preprocess step: docs/operations/capacity.md, an encoder that costs no core
_CORES_A_PROCESS = 3


def run(
    plan: SessionPlan,
    target: Path | None,
    command: str,
    tell: Callable[[str], None],
    saved: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Runs stage after stage; returns the document, also after an interruption.

    Args:
        plan: the settings of the session.
        target: the file of the document; None for none.
        command: the command line that the document names.
        tell: the function that shows a line of progress.
        saved: the function that gets the document after each stage.

    Raises:
        KeyboardInterrupt: the session was interrupted before the first stage had ended.
    """
    session = _Session(plan, target, command, tell, saved)
    with session.record.kept(session.clock.say):
        session.run()
    session.document["took_s"] = session.clock.elapsed_s
    session.save()
    return session.document


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """A served export, with the input for each of two ways.

    Attributes:
        photos: encoded photos, for the ensemble.
        pixels: their pixels, for the encoder alone.
    """

    photos: Target
    pixels: Target


class _Session:
    analyzer: PerfAnalyzer
    model: str
    scratch: Path

    def __init__(
        self,
        plan: SessionPlan,
        target: Path | None,
        command: str,
        tell: Callable[[str], None],
        saved: Callable[[dict[str, Any]], None],
    ) -> None:
        self.plan = plan
        self.clock = Clock(plan.budget_s - _END_S, tell)
        self.images = [path.read_bytes() for path in find_images(plan.images)]
        self.cores = usable_cores()
        self.preprocess_instances = max(1, math.ceil(self.cores / _CORES_A_PROCESS))
        self.gpu = plan.device == "gpu"
        self.record = Record(
            {
                "format": FORMAT,
                "command": command,
                "machine": _machine.describe(),
                "versions": _machine.versions(),
                "images": _photos.describe(self.images),
                "settings": {
                    "device": plan.device,
                    "seconds": plan.seconds,
                    "preprocess_instances": self.preprocess_instances,
                },
                "exports": {},
                "loads": [],
                "stages": [],
            },
            target,
            counts=("stages",),
        )
        self._saved = saved
        self._stages = Stages(self.clock, self.document["stages"], self.save)

    @property
    def document(self) -> dict[str, Any]:
        return self.record.document

    def save(self) -> None:
        self._saved(self.record.save())

    def run(self) -> None:
        with tempfile.TemporaryDirectory(prefix="vitriton-bench-") as folder:
            self.scratch = Path(folder)
            if not self._stages.run("prepare", _PREPARE_S, self._prepare):
                return
            for variant in self.plan.variants:
                self._variant(variant)
                if self.document["exports"] and "limits" not in self.document:
                    self._limits()  # after the figures that matter most

    def _prepare(self) -> bool:
        write_payload(self.images, IMAGE, self.scratch / "photos.json")
        self.analyzer = program.get(self.plan.perf_analyzer, self.clock.say)
        self.document["versions"]["perf_analyzer"] = self.analyzer.version
        size = self.plan.size
        self.model = self.plan.model or str(random_vit(size, self.plan.work / f"vit-{size}-random"))
        self.document["model"] = {"label": self.model}
        return True

    def _variant(self, variant: Variant) -> None:
        """Exports a variant, and measures it served and alone."""
        # TritonServer takes the tritonserver on PATH, as in NVIDIA's image, and else that of the wheel.
        if variant.needs_native and shutil.which("tritonserver") is None:
            self._stages.left_out(variant.name, "the wheel's Triton has no TensorRT; NVIDIA's image has it")
            return
        if not self._stages.run(f"{variant.name}: export", _EXPORT_S, partial(self._export, variant)):
            return
        self._serve(variant)
        # also if no server started: it shows whether the GPU computes at all
        self._stages.run(f"{variant.name}: {_GRAPH}", _LIMITS_S, partial(self._graph, variant))

    def _serve(self, variant: Variant) -> None:
        """Starts a server with a variant, verifies it, and puts the loads on it."""
        name = self._name(variant)
        with contextlib.ExitStack() as stack:
            start = serve(self.plan.repository, name, ["pooled"], self.scratch / name)
            limit_s = _ENGINES_S if variant.needs_native else _START_S
            before = _used_gpu_bytes()
            server = self._stages.run(f"{variant.name}: start", limit_s, partial(stack.enter_context, start))
            if server is None:
                return
            if before is not None:
                self.document["exports"][variant.name]["gpu_bytes"] = (_used_gpu_bytes() or before) - before
            self._stages.run(f"{variant.name}: verify", _VERIFY_S, partial(self._verify, variant, server))
            self._loads(variant, server)

    def _export(self, variant: Variant) -> bool:
        options = ["--precision", variant.precision, "--outputs", "pooled", *variant.options]
        options += ["--preprocess-instances", str(self.preprocess_instances), "--device", self.plan.device]
        where = ["--repository", str(self.plan.repository), "--name", self._name(variant), "--skip-existing"]
        _vitriton(["export", self.model, *where, *options])
        self.document["exports"][variant.name] = {"precision": variant.precision}
        return True

    def _verify(self, variant: Variant, server: TritonServer) -> bool:
        where = ["--url", f"grpc://{server.grpc_address}"]
        where += ["--reference", self.model] if Path(self.model).is_dir() else []
        report = json.loads(_vitriton(["verify", self._name(variant), *where, "--json"], passes=(0, _BROKEN)))
        self.document["exports"][variant.name] |= {
            "passed": report["passed"],
            # not the cosine itself, which the file would round to 1
            "distance": max(1 - stage["min_cosine"] for stage in report["stages"] if stage["stage"] == "embedding"),
            "compared": report["images"]["compared"],
        }
        return True

    def _loads(self, variant: Variant, server: TritonServer) -> None:
        targets = self._stages.run(f"{variant.name}: inputs", _LIMITS_S, partial(self._targets, variant, server))
        if targets is None:
            return
        name, batch, encoder = self._name(variant), self.plan.batch, step_names(self._name(variant), "pooled")[1]
        points = [Point(concurrency=callers) for callers in self.plan.callers] + [Point(concurrency=4, batch=batch)]
        for point in points:
            self._load(variant, _JPEG, point, partial(measure, self.analyzer, name, point, targets.photos))
        for point in (Point(concurrency=4, batch=batch, shared_memory="system"), Point(concurrency=1)):
            self._load(variant, _PIXELS, point, partial(run_analyzer, self.analyzer, encoder, point, targets.pixels))

    def _targets(self, variant: Variant, server: TritonServer) -> _Targets:
        name, pixels = self._name(variant), self.scratch / "pixels.json"
        if not pixels.is_file():
            spec = read_spec(self.plan.repository, name)
            ready = [base64.b64encode(preprocess(image, spec).tobytes()).decode("ascii") for image in self.images]
            pixels.write_text(json.dumps({"data": [{PIXELS: {"b64": one}} for one in ready]}))
        addresses: dict[Protocol, str] = {"grpc": server.grpc_address}
        photos = Target.of(addresses, self.scratch / "photos.json", name, ["pooled"])
        return _Targets(photos=photos, pixels=replace(photos, payload=pixels))

    def _load(self, variant: Variant, way: str, point: Point, measured: Callable[[float], dict[str, Any]]) -> None:
        """Measures a load; `measured` gets the seconds, and returns perf_analyzer's figures."""

        def action() -> bool:
            same = [row for row in self.document["loads"] if (row["variant"], row["way"]) == (variant.name, way)]
            seconds = long_enough(point, self.plan.seconds, same)
            row = {"variant": variant.name, "way": way, "load": load(asdict(point)), **measured(seconds)}
            self.document["loads"].append(row)
            return True

        name = f"{variant.name}: {way}, {load(asdict(point))}"
        self._stages.run(name, _LOAD_S + 2 * self.plan.seconds, action)

    def _graph(self, variant: Variant) -> bool:
        """Measures ONNX Runtime alone, in this process."""
        bare = Bare(self.plan.repository, self._name(variant), self.images, self.cores, gpu=self.gpu)
        sample = bare.ready_pixels(self.plan.batch, self.plan.seconds / 2)
        row = {"variant": variant.name, "way": _GRAPH, "load": f"batch {self.plan.batch}", **asdict(sample)}
        self.document["loads"].append(row)
        return True

    def _limits(self) -> None:
        self.document["limits"] = {}
        self._stages.run("operations of the model", _LIMITS_S, self._operations)
        self._stages.run("matrix products", _LIMITS_S, self._products)
        self._stages.run("decoding on the cores", _LIMITS_S, self._decoding)

    def _operations(self) -> bool:
        spec = self._spec()
        _, network = reference.load(self.model, "fp32", "cpu")
        self.document["model"]["flop"] = reference.flop(network, torch.zeros(1, 3, spec.height, spec.width))
        return True

    def _products(self) -> bool:
        self.document["limits"]["products"] = matrix_products(2 * self.plan.seconds, self.cores, self.gpu)
        torch.cuda.empty_cache()  # for the servers that follow
        return True

    def _decoding(self) -> bool:
        counts = {"one_core": 1, "all_cores": self.cores}
        self.document["limits"]["decoding"] = {
            name: decoded_per_s(self.images, self._spec(), processes, self.plan.seconds / 2)
            for name, processes in counts.items()
        }
        return True

    def _spec(self) -> PreprocessSpec:
        """The steps of preprocessing, which all exports share."""
        exported = next(variant for variant in self.plan.variants if variant.name in self.document["exports"])
        return read_spec(self.plan.repository, self._name(exported))

    def _name(self, variant: Variant) -> str:
        return f"{Path(self.model.rstrip('/')).name}-{variant.slug}"


def _vitriton(arguments: Sequence[str], passes: Sequence[int] = (0,)) -> str:
    """Runs a command of `vitriton` in a process of its own; returns its output.

    Raises:
        BenchError: it ended with another exit code; the text has the end of what it said.
    """
    done = subprocess.run([sys.executable, "-m", "vitriton", *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in passes:
        said = last_words(done.stderr or done.stdout)
        raise BenchError(f"vitriton {arguments[0]} ended with exit code {done.returncode}: {said}")
    return done.stdout


def _used_gpu_bytes() -> int | None:
    """The used memory of the first GPU; None without a GPU."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout
        return int(said.split()[0]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
