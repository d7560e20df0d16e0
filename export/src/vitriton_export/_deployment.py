"""What is deployed, as data, and the text files of the model repository that follow from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from vitriton.preprocessing import PreprocessSpec

from vitriton_export._normalization import Normalization
from vitriton_export._options import Kind, Pooling, Precision

VERSION = "1"  # the Triton model version, and so the name of the folder
TENSOR: dict[Kind, str] = {"pooled": "embedding", "unpooled": "last_hidden_state"}

# Requests that wait, in each of the two steps. The encoder's queue is the one that fills, since decoding is faster than
# encoding; the preprocess queue is limited as well so that a flood is refused before its bytes pile up.
MAX_QUEUE_SIZE = 256
# A request's own timeout counts only where the model has one as well; this is the longest that any request waits.
DEFAULT_TIMEOUT_US = 60_000_000

PILLOW_VERSION = "pillow_version"  # a parameter of both ensembles, for clients, and of the python step, for itself

_PIXELS = {"uint8": pb.TYPE_UINT8, "float32": pb.TYPE_FP32}

_HEADER = "# Written by `vitriton export`. The schema is Triton's model_config.proto.\n"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An export as Triton sees it.

    Attributes:
        name: what the five models' names start with.
        spec: the preprocessing, up to the pixels.
        normalization: what the encoder's graph does to them.
        shapes: dims of each output, without the batch; its keys are the ensembles that exist.
        max_batch_size: of all five.
        model_id: where the weights came from.
        revision: the commit on the hub; None for a folder.
        pillow_version: that the parity gate compares the pixels with.
        pooling: how the embedding is made.
        l2_normalize: whether it has length 1.
        precision: of the encoders.
        fingerprint: names the embedding space.
    """

    name: str
    spec: PreprocessSpec
    normalization: Normalization
    shapes: dict[Kind, tuple[int, ...]]
    max_batch_size: int
    model_id: str
    revision: str | None
    pillow_version: str
    pooling: Pooling
    l2_normalize: bool
    precision: Precision
    fingerprint: str

    @property
    def preprocess_name(self) -> str:
        """The python step."""
        return f"{self.name}_preprocess"

    def encoder_name(self, kind: Kind) -> str:
        """The ONNX Runtime step."""
        return f"{self.name}_{kind}_encoder"

    def ensemble_name(self, kind: Kind) -> str:
        """What clients call."""
        return f"{self.name}_{kind}"

    @property
    def model_names(self) -> list[str]:
        """All of them, in the order in which they may appear in a repository: what is needed before what needs it."""
        return [
            self.preprocess_name,
            *(self.encoder_name(kind) for kind in self.shapes),
            *(self.ensemble_name(kind) for kind in self.shapes),
        ]

    @property
    def every_model_name(self) -> list[str]:
        """Those that an export of this name with both outputs has."""
        both = [name(kind) for kind in TENSOR for name in (self.encoder_name, self.ensemble_name)]
        return [self.preprocess_name, *both]

    @property
    def pixels(self) -> list[int]:
        """Dims of the tensor between the two steps."""
        return [self.spec.height, self.spec.width, 3]


def write(deployment: Deployment, folder: Path) -> None:
    """Writes every text file of the deployment; model.onnx and manifest.json, which depend on weights, come later."""
    configs = {deployment.preprocess_name: _preprocess_config(deployment)}
    for kind in deployment.shapes:
        configs[deployment.encoder_name(kind)] = _encoder_config(deployment, kind)
        configs[deployment.ensemble_name(kind)] = _ensemble_config(deployment, kind)
    for name, config in configs.items():
        # on the steps too: by it the next export knows its own
        _add_parameters(config, {"fingerprint": deployment.fingerprint})
        (folder / name / VERSION).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.pbtxt").write_text(_HEADER + text_format.MessageToString(config))
    version = folder / deployment.preprocess_name / VERSION
    (version / "preprocess.json").write_text(deployment.spec.to_json())
    _copy("vitriton_export", "triton/preprocess/model.py", version / "model.py")
    _copy("vitriton", "preprocessing.py", version / "vitriton_preprocessing.py")


def _copy(package: str, source: str, target: Path) -> None:
    with resources.as_file(resources.files(package) / source) as path:
        shutil.copyfile(path, target)


def _preprocess_config(deployment: Deployment) -> pb.ModelConfig:
    config = pb.ModelConfig(name=deployment.preprocess_name, backend="python", max_batch_size=deployment.max_batch_size)
    config.input.add(name="image", data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name="pixels", data_type=_PIXELS[deployment.spec.dtype.name], dims=deployment.pixels)
    _add_parameters(config, {PILLOW_VERSION: deployment.pillow_version})
    # One instance: it decodes on as many threads as there are cores, and a second would only fight it for them.
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    _add_batching(config)
    return config


def _encoder_config(deployment: Deployment, kind: Kind) -> pb.ModelConfig:
    config = pb.ModelConfig(
        name=deployment.encoder_name(kind), backend="onnxruntime", max_batch_size=deployment.max_batch_size
    )
    config.input.add(name="pixels", data_type=_PIXELS[deployment.spec.dtype.name], dims=deployment.pixels)
    config.output.add(name=TENSOR[kind], data_type=pb.TYPE_FP32, dims=deployment.shapes[kind])
    # KIND_AUTO: a GPU where there is one, else the CPU. One instance: on a CPU one session already uses all cores.
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_AUTO)
    _add_batching(config)
    return config


def _add_batching(config: pb.ModelConfig) -> None:
    policy = config.dynamic_batching.default_queue_policy
    policy.timeout_action = pb.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = DEFAULT_TIMEOUT_US
    policy.allow_timeout_override = True
    policy.max_queue_size = MAX_QUEUE_SIZE


def _ensemble_config(deployment: Deployment, kind: Kind) -> pb.ModelConfig:
    config = pb.ModelConfig(
        name=deployment.ensemble_name(kind), platform="ensemble", max_batch_size=deployment.max_batch_size
    )
    config.input.add(name="image", data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=TENSOR[kind], data_type=pb.TYPE_FP32, dims=deployment.shapes[kind])
    preprocess = config.ensemble_scheduling.step.add(model_name=deployment.preprocess_name, model_version=-1)
    preprocess.input_map["image"] = "image"
    preprocess.output_map["pixels"] = "pixels"
    encode = config.ensemble_scheduling.step.add(model_name=deployment.encoder_name(kind), model_version=-1)
    encode.input_map["pixels"] = "pixels"
    encode.output_map[TENSOR[kind]] = TENSOR[kind]
    _add_parameters(config, _ensemble_parameters(deployment))
    return config


def _ensemble_parameters(deployment: Deployment) -> dict[str, str]:
    """What a client cannot see from the tensors, down to what it needs to make the pixels itself."""
    parameters = {
        "model": deployment.model_id,
        "pooling": deployment.pooling,
        "l2_normalize": str(deployment.l2_normalize).lower(),
        "precision": deployment.precision,
        "preprocess": json.dumps(json.loads(deployment.spec.to_json()), separators=(",", ":")),
        "normalization": json.dumps(deployment.normalization.to_dict(), separators=(",", ":")),
        PILLOW_VERSION: deployment.pillow_version,
    }
    return parameters if deployment.revision is None else parameters | {"revision": deployment.revision}


def _add_parameters(config: pb.ModelConfig, parameters: Mapping[str, str]) -> None:
    for key, value in parameters.items():
        config.parameters[key].string_value = value


def read_fingerprint(config_file: Path) -> str | None:
    """The fingerprint in an ensemble's config.pbtxt; None if there is no such file, or no fingerprint in it."""
    config = _read(config_file)
    if config is None or "fingerprint" not in config.parameters:
        return None
    return str(config.parameters["fingerprint"].string_value)


def read_max_batch_size(config_file: Path) -> int | None:
    """The max_batch_size in a config.pbtxt; None if there is no such file."""
    config = _read(config_file)
    return None if config is None else int(config.max_batch_size)


def _read(config_file: Path) -> pb.ModelConfig | None:
    try:
        return text_format.Parse(config_file.read_text(), pb.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError):
        return None
