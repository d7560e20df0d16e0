"""Makes docs/reference/text-models.md: every architecture of transformers that turns texts into features.

    python -m support.text_catalog docs/reference/text-models.md          (make models)

Each one that can be exported is exported from a small checkpoint of random weights, which runs the export's own parity
gate (the token ids, and both outputs, on every text of the corpus), and is then asked for embeddings and tokens through
a real Triton, which are compared with transformers once more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import __version__ as VERSION  # noqa: N812 - it is a constant
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES
from vitriton import Client
from vitriton._repository.names import OUTPUT
from vitriton_export import ExportOptions, ExportResult, export_model
from vitriton_export._checkpoint.architectures import FAMILIES
from vitriton_export._checkpoint.refusals import called_with
from vitriton_export._checkpoint.source import fetch_weights, find
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES, TEXT_TOWERS
from vitriton_export._checkpoint.text_refusals import text_refusal
from vitriton_export._parity.gates import FP32_TOLERANCE
from vitriton_export._parity.texts import corpus
from vitriton_export._towers import plans
from vitriton_server import TritonServer

from support import text_architectures, two_towers

_EXPORTED = TEXT_FAMILIES | TEXT_TOWERS
_TOGETHER = 6  # exports in one server: each is three processes
_SERVED = 12  # texts
_HEAD = """# Models for texts

`vitriton export` takes {passed} architectures of transformers {version} for texts. {refused} others turn texts into
features and are refused, with the reason. `make models` makes this page: it exports a small configuration of each one
with random weights and a byte-level tokenizer, compares token ids and float32 outputs with transformers on every text
of the parity gate, and asks for both outputs through a real Triton. *Exported* and *served* are the largest error as a
part of the tolerance, 1e-4 · max(1, max|reference|).

## Passed: {passed}

| model_type | pooling `auto` | exported | served | note |
|---|---|---|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """One architecture that passed.

    Attributes:
        model_type: as in config.json.
        pooling: that "auto" chose.
        exported: the largest error of an output in the gate, as a part of what is allowed.
        served: the same through Triton.
    """

    model_type: str
    pooling: str
    exported: float
    served: float


def text_types() -> list[str]:
    """Every model_type with a tokenizer whose base model takes token ids and no pixels."""
    types = {name for name in MODEL_MAPPING_NAMES if name in TOKENIZER_MAPPING_NAMES and _takes_texts(name)}
    return sorted((types - FAMILIES.keys()) | _EXPORTED.keys())


def _takes_texts(model_type: str) -> bool:
    parameters = called_with(model_type)
    return "input_ids" in parameters and "pixel_values" not in parameters


def check(model_types: Iterable[str], folder: Path) -> Iterator[TextRow]:
    """Exports the small checkpoints of these architectures, and serves them together."""
    repository, exported = folder / "repository", dict[str, ExportResult]()
    for model_type in model_types:
        write = two_towers.write if model_type in TEXT_TOWERS else text_architectures.write
        checkpoint = write(model_type, folder / model_type)
        exported[model_type] = export_model(
            ExportOptions(model=str(checkpoint), repository=repository, name=f"{model_type}-small", towers="text")
        )
    with TritonServer(repository) as server:
        for model_type, result in exported.items():
            yield _row(model_type, folder / model_type, result, server.grpc_address)


def _row(model_type: str, folder: Path, result: ExportResult, address: str) -> TextRow:
    texts = list(islice(corpus().values(), _SERVED))
    options = ExportOptions(model=str(folder), name="m", towers="text")
    (planned,) = plans(fetch_weights(find(str(folder), None)), options)
    reference = planned.reference().run(texts)
    strings = [text.decode() for text in texts]
    with Client(address, model=f"{model_type}-small") as client:
        answers = {OUTPUT["text_pooled"]: list(client.embed_texts(strings))}
        answers[OUTPUT["text_unpooled"]] = client.embed_texts(strings, pool=False)
    served = max(
        _part(answer, expected)
        for tensor, rows in answers.items()
        for answer, expected in zip(rows, reference.values[tensor], strict=True)
    )
    assert served <= 1, f"{model_type}: {served:.2f} of the allowed error through Triton"
    spread = float(np.ptp(np.stack(answers[OUTPUT["text_pooled"]]), axis=0).max())
    assert spread > 0.01, f"{model_type} gives the same for all texts ({spread}), and proves nothing"
    stages = {stage.stage: stage for stage in result.parity}
    outputs = [stages[tensor] for tensor in answers]
    exported = max(stage.max_abs_error / _allowed(stage.max_abs_reference) for stage in outputs)
    return TextRow(model_type=model_type, pooling=result.deployment.pooling, exported=exported, served=served)


def _part(answer: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(answer - expected).max()) / _allowed(float(np.abs(expected).max()))


def _allowed(largest: float) -> float:
    return FP32_TOLERANCE * max(1.0, largest)


def page(rows: list[TextRow]) -> str:
    """The text of the page."""
    refused = [name for name in text_types() if name not in _EXPORTED]
    lines = [_HEAD.format(passed=len(rows), refused=len(refused), version=VERSION).rstrip()]
    for row in rows:
        note = _EXPORTED[row.model_type].note
        cells = (f"`{row.model_type}`", row.pooling, f"{row.exported:.3f}", f"{row.served:.3f}", note)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"## Refused: {len(refused)}", "", "| model_type | reason |", "|---|---|"]
    lines += [f"| `{name}` | {text_refusal(name)} |" for name in refused]
    return "\n".join([*lines, ""])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the file to write")
    target = parser.parse_args().page
    wanted, rows = sorted(_EXPORTED), list[TextRow]()
    for start in range(0, len(wanted), _TOGETHER):
        with tempfile.TemporaryDirectory(prefix="vitriton-models-") as folder:
            rows += check(wanted[start : start + _TOGETHER], Path(folder))
        print(f"{len(rows)} of {len(wanted)} done", file=sys.stderr, flush=True)
    target.write_text(page(rows))


if __name__ == "__main__":
    main()
