"""The first step of a deployment: the Python model that turns what clients send into what the encoders take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from tritonclient.grpc import model_config_pb2 as pb
from vitriton._repository import disk, names
from vitriton.preprocessing import PreprocessSpec

from vitriton_export._processors.normalization import Normalization
from vitriton_export.triton.tokenize.vitriton_tokenizing import TOKENIZER, TokenizeSpec

PILLOW_VERSION = "pillow_version"  # a parameter of the ensembles, for clients, and of the preprocess step, for itself

_PIXELS = {"uint8": pb.TYPE_UINT8, "float32": pb.TYPE_FP32}


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """A tensor that a first step returns: its Triton data type, and its dims without the batch, -1 where open."""

    data_type: int
    dims: tuple[int, ...]


class FirstStep(Protocol):
    """The first step of a tower."""

    @property
    def tower(self) -> names.Tower:
        """The tower."""

    @property
    def outputs(self) -> Mapping[str, StepOutput]:
        """The tensors that the step returns, by name."""

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters of the step's own configuration."""

    @property
    def ensemble_parameters(self) -> Mapping[str, str]:
        """The parameters of the ensembles, which clients read."""

    @property
    def space(self) -> Mapping[str, Any]:
        """The part of the step that decides the vectors, for the fingerprint."""

    def write(self, version: Path) -> None:
        """Writes the files of the step into its version folder."""

    def to_document(self) -> dict[str, Any]:
        """Returns the entries of manifest.json."""


@dataclass(frozen=True, kw_only=True)
class PreprocessStep:
    """The step from encoded images to pixels.

    Attributes:
        spec: the preprocessing, up to the pixels.
        normalization: the arithmetic on the pixels in the encoder's graph.
        pillow_version: the version of Pillow in the reference that the parity gate compares the pixels with.
    """

    spec: PreprocessSpec
    normalization: Normalization
    pillow_version: str
    tower: names.Tower = field(default="image", init=False)

    @property
    def outputs(self) -> Mapping[str, StepOutput]:
        """See `FirstStep`."""
        dims = (self.spec.height, self.spec.width, 3)
        return {names.PIXELS: StepOutput(data_type=_PIXELS[self.spec.dtype.name], dims=dims)}

    @property
    def parameters(self) -> Mapping[str, str]:
        """See `FirstStep`."""
        return {PILLOW_VERSION: self.pillow_version}

    @property
    def ensemble_parameters(self) -> Mapping[str, str]:
        """See `FirstStep`. With them, clients can make the pixels themselves."""
        return {
            "preprocess": _compact(json.loads(self.spec.to_json())),
            "normalization": _compact(self.normalization.to_dict()),
            PILLOW_VERSION: self.pillow_version,
        }

    @property
    def space(self) -> Mapping[str, Any]:
        """See `FirstStep`."""
        return {
            "steps": json.loads(self.spec.to_json())["steps"],
            "image_size": [self.spec.height, self.spec.width],
            "normalization": asdict(self.normalization),
        }

    def write(self, version: Path) -> None:
        """See `FirstStep`."""
        (version / "preprocess.json").write_text(self.spec.to_json())
        _copy("vitriton_export", "triton/preprocess/model.py", version / "model.py")
        target = version / disk.PREPROCESSING
        target.mkdir(exist_ok=True)
        for source in resources.files("vitriton.preprocessing").iterdir():
            if source.name.endswith(".py"):  # no compiled files
                (target / source.name).write_bytes(source.read_bytes())

    def to_document(self) -> dict[str, Any]:
        """See `FirstStep`."""
        return {"preprocessing": json.loads(self.spec.to_json()), "normalization": self.normalization.to_dict()}


@dataclass(frozen=True, kw_only=True)
class TokenizeStep:
    """The step from texts to token ids.

    Attributes:
        spec: the settings besides the tokenizer.
        tokenizer: the content of tokenizer.json.
        prompts: the prefixes that clients put before texts, by the prompt's name.
        default_prompt: the name of the prompt that clients use unless they are given another; None: no prompt.
    """

    spec: TokenizeSpec
    tokenizer: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    tower: names.Tower = field(default="text", init=False)

    @property
    def outputs(self) -> Mapping[str, StepOutput]:
        """See `FirstStep`."""
        open_length = StepOutput(data_type=pb.TYPE_INT64, dims=(-1,))
        return {
            names.INPUT_IDS: open_length,
            names.ATTENTION_MASK: open_length,
            names.TOKEN_COUNTS: StepOutput(data_type=pb.TYPE_INT32, dims=(2,)),
        }

    @property
    def parameters(self) -> Mapping[str, str]:
        """See `FirstStep`."""
        return {}

    @property
    def ensemble_parameters(self) -> Mapping[str, str]:
        """See `FirstStep`."""
        parameters = {"tokenize": _compact(json.loads(self.spec.to_json()))}
        if self.prompts:
            parameters["prompts"] = _compact(dict(self.prompts))
        if self.default_prompt is not None:
            parameters["default_prompt"] = self.default_prompt
        return parameters

    @property
    def space(self) -> Mapping[str, Any]:
        """See `FirstStep`."""
        settings = {key: value for key, value in asdict(self.spec).items() if key != "max_text_bytes"}
        return {"tokenizer": hashlib.sha256(self.tokenizer.encode()).hexdigest(), **settings}

    def write(self, version: Path) -> None:
        """See `FirstStep`."""
        (version / "tokenize.json").write_text(self.spec.to_json())
        (version / TOKENIZER).write_text(self.tokenizer, encoding="utf-8")
        for name in ("model.py", "vitriton_tokenizing.py"):
            _copy("vitriton_export", f"triton/tokenize/{name}", version / name)
        _copy("vitriton.preprocessing", "refusals.py", version / "vitriton_refusals.py")

    def to_document(self) -> dict[str, Any]:
        """See `FirstStep`."""
        prompts = {"prompts": dict(self.prompts), "default_prompt": self.default_prompt}
        return {"tokenization": {**json.loads(self.spec.to_json()), **prompts}}


def _copy(package: str, name: str, target: Path) -> None:
    target.write_bytes((resources.files(package) / name).read_bytes())


def _compact(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))
