"""Makes docs/reference/models.md: every architecture of transformers that could give features of one image.

Each is exported and served.

    python -m support.catalog docs/reference/models.md          (make models)

Each one that can be exported is exported from a small checkpoint of random weights, which runs the export's own parity
gate (the pixels, and both outputs, on every awkward image of the corpus), and is then asked for embeddings and tokens
through a real Triton, which are compared with transformers once more.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig
from transformers import __version__ as VERSION  # noqa: N812 - it is a constant
from transformers.models.auto import modeling_auto
from vitriton import Client
from vitriton._repository.names import OUTPUT, kinds_of
from vitriton_export import ExportError, ExportOptions, ExportResult, export_model
from vitriton_export._checkpoint.architectures import FAMILIES, check_installed, family
from vitriton_export._checkpoint.refusals import called_with
from vitriton_export._checkpoint.source import fetch_weights, find
from vitriton_export._parity.corpus import corpus
from vitriton_export._parity.gates import FP32_TOLERANCE
from vitriton_export._towers import plans
from vitriton_server import TritonServer

from support import architectures

_TOGETHER = 6  # exports in one server: each is three processes
_SERVED = ("astronaut.jpg", "cat.jpg", "coffee.jpg", "exif-orientation-6.jpg", "palette-transparency.png", "cmyk.jpg")

# The names that this project promises, as transformers calls them.
PROMISED = frozenset(
    (
        "vit",
        "deit",
        "beit",
        "data2vec-vision",
        "vit_mae",
        "vit_msn",
        "ijepa",
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "dinov3_convnext",
        "clip",
        "clip_vision_model",
        "siglip",
        "siglip_vision_model",
        "siglip2",
        "siglip2_vision_model",
        "aimv2",
        "aimv2_vision_model",
        "swin",
        "swinv2",
        "hiera",
        "convnext",
        "convnextv2",
        "focalnet",
        "cvt",
        "pvt",
        "pvt_v2",
        "poolformer",
        "levit",
        "mobilevit",
        "mobilevitv2",
        "mobilenet_v1",
        "mobilenet_v2",
        "efficientnet",
        "regnet",
        "resnet",
        "bit",
        "swiftformer",
    )
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One architecture.

    Attributes:
        model_type: as in config.json.
        refused: why it is not exported; empty where it is.
        image_processor: of the small checkpoint.
        pooling: that "auto" chose.
        output: dims of last_hidden_state.
        pixels: how they compare.
        exported: the largest error of an output in the gate, as a part of what is allowed.
        served: the same through Triton.
    """

    model_type: str
    refused: str = ""
    image_processor: str = ""
    pooling: str = ""
    output: tuple[int, ...] = ()
    pixels: str = ""
    exported: float = 0.0
    served: float = 0.0


@dataclass(frozen=True)
class Failure:
    """An architecture that should pass and does not."""

    model_type: str
    reason: str


def image_types() -> list[str]:
    """Every model_type that is listed for image features, or whose base model is called with pixel values first."""
    types = set(modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES) | set(FAMILIES)
    types |= {name for name in modeling_auto.MODEL_MAPPING_NAMES if next(iter(called_with(name)), "") == "pixel_values"}
    return sorted(types)


def refusal(model_type: str) -> str:
    """Why a model_type is not exported; empty where it is."""
    try:
        check_installed(model_type, "It")
        family(AutoConfig.for_model(model_type), "It")
    except ExportError as exc:
        return str(exc).removeprefix(f"It is of type {model_type}, ").partition("; `vitriton")[0]
    return ""


def check(model_types: Iterable[str], folder: Path) -> Iterator[Row | Failure]:
    """Exports the small checkpoints of these architectures, and serves them together."""
    repository, exported = folder / "repository", dict[str, ExportResult]()
    for model_type in model_types:
        started = time.perf_counter()
        try:
            checkpoint = architectures.write(model_type, folder / model_type)
            options = ExportOptions(model=str(checkpoint), repository=repository, name=model_type)
            exported[model_type] = export_model(options)
        except Exception as exc:  # the others are still worth knowing
            yield Failure(model_type, f"{type(exc).__name__}: {exc}")
            continue
        _say(f"{model_type:<28} exported {time.perf_counter() - started:5.1f} s")
    if not exported:
        return
    started = time.perf_counter()
    with TritonServer(repository) as server:
        _say(f"{len(exported):<28} served   {time.perf_counter() - started:5.1f} s")
        for model_type, result in exported.items():
            try:
                yield _row(model_type, folder / model_type, result, server.grpc_address)
            except Exception as exc:
                yield Failure(model_type, f"{type(exc).__name__}: {exc}")


def _row(model_type: str, folder: Path, result: ExportResult, address: str) -> Row:
    planned = plans(fetch_weights(find(str(folder), None)), ExportOptions(model=str(folder), name="m"))[0]
    images = {name: data for name, data in corpus().items() if name in _SERVED}
    files = list(images.values())
    reference = planned.reference().run(files)
    expected = {kind: reference.values[OUTPUT[kind]] for kind in kinds_of("image")}
    with Client(address, model=model_type) as client:
        answers = {"pooled": client.embed(files), "unpooled": client.embed(files, pool=False)}
    served = max(_part(answers[kind] - expected[kind], expected[kind]) for kind in expected)
    assert served <= 1, f"{model_type}: {served:.2f} of the allowed error through Triton"
    spread = float(np.ptp(expected["pooled"], axis=0).max())
    assert spread > 0.01, f"{model_type} gives the same for all images ({spread}), and proves nothing"
    stages = {stage.stage: stage for stage in result.parity}
    pixels, outputs = stages["pixels"], [stages[OUTPUT[kind]] for kind in kinds_of("image")]
    return Row(
        model_type=model_type,
        image_processor=type(planned.checkpoint.image_processor).__name__,
        pooling=result.deployment.pooling,
        output=result.deployment.shapes["unpooled"],
        pixels="identical" if pixels.max_abs_error == 0 else f"within {pixels.max_abs_error:.0e}",
        exported=max(stage.max_abs_error / _allowed(stage.max_abs_reference) for stage in outputs),
        served=served,
    )


def _part(error: Any, target: Any) -> float:
    return float(np.abs(error).max()) / _allowed(float(np.abs(target).max()))


def _allowed(largest: float) -> float:
    return FP32_TOLERANCE * max(1.0, largest)


def page(rows: list[Row]) -> str:
    """The text of docs/reference/models.md."""
    passed, refused = [row for row in rows if not row.refused], [row for row in rows if row.refused]
    lines = [
        "# Models",
        "",
        f"This page has every architecture of transformers {VERSION} that is listed for image features, or whose base",
        "model takes pixel values: those that `vitriton export` takes, and those that it refuses. `make models` makes",
        "this page. It exports a small configuration of each architecture with random weights and its image processor,",
        "compares pixels and float32 outputs with transformers on every image of the parity gate, and asks a real",
        "Triton for both outputs. *Exported* and *served* are the largest error as a part of the tolerance,",
        "1e-4 · max(1, max|reference|). `vitriton export --list` shows the choices of `--pooling`.",
        "",
        "An image processor in brackets was given to the small checkpoint, because transformers names none for the",
        "architecture, or one that is refused. Each real checkpoint brings its own.",
        "",
        "timm's models (`timm_wrapper`, and checkpoints as timm itself writes them) need",
        "[timm and torchvision](../guides/export.md#timms-models). `make models` has a row for them if these packages",
        "are installed. The transforms of these models come from config.json.",
        "",
        f"## Passed: {len(passed)}",
        "",
        "| model_type | image processor | pooling `auto` | last_hidden_state | pixels | exported | served | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in passed:
        shape = " × ".join(str(size) for size in row.output)
        processor = row.image_processor.removesuffix("Pil")
        cells = (
            f"`{row.model_type}`",
            f"({processor})" if architectures.SMALL[row.model_type].processor_class else processor,
            row.pooling,
            shape,
            row.pixels,
            f"{row.exported:.3f}",
            f"{row.served:.3f}",
            FAMILIES[row.model_type].note,
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"## Refused: {len(refused)}", "", "| model_type | reason |", "|---|---|"]
    lines += [f"| `{row.model_type}` | {_reason(row.refused)} |" for row in refused]
    return "\n".join([*lines, ""])


def _reason(refused: str) -> str:
    """The end of a sentence, as a cell of a table."""
    return re.sub("^whose ", "its ", refused.removeprefix("which "))


def _finished(file: Path | None) -> list[Row]:
    if file is None or not file.is_file():
        return []
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()]


def _keep(row: Row, file: Path | None) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as rows:
            rows.write(json.dumps(asdict(row)) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the file to write")
    parser.add_argument("--only", nargs="*", help="of these architectures alone")
    parser.add_argument("--resume", type=Path, help="a file to keep finished rows in; those in it are not made again")
    arguments = parser.parse_args()
    wanted = arguments.only or image_types()
    rows = [Row(model_type=name, refused=reason) for name in wanted if (reason := refusal(name))]
    rows += _finished(arguments.resume)
    takes = [name for name in wanted if name not in {row.model_type for row in rows}]
    failures = list[Failure]()
    _say(f"{len(takes)} to export, {len(rows)} refused or finished")
    for start in range(0, len(takes), _TOGETHER):
        with tempfile.TemporaryDirectory(prefix="vitriton-models-") as folder:
            for result in check(takes[start : start + _TOGETHER], Path(folder)):
                if isinstance(result, Row):
                    rows.append(result)
                    _keep(result, arguments.resume)
                else:
                    failures.append(result)
                    _say(f"{result.model_type:<28} FAILED {result.reason}")
        _say(f"{min(start + _TOGETHER, len(takes))} of {len(takes)} done")
    if failures:
        sys.exit(f"{len(failures)} failed, and {arguments.page} was not written")
    arguments.page.write_text(page(sorted(rows, key=lambda row: row.model_type)))


if __name__ == "__main__":
    main()
