"""A deployment as data, and the text files of the model repository that follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from vitriton._repository import disk, names
from vitriton._version import __version__
from vitriton.preprocessing import PreprocessSpec

from vitriton_export._options import OutputDtype, Pooling, Precision
from vitriton_export._processors.normalization import Normalization
from vitriton_export._serving import Serving, add_accelerator, add_batching, add_instances, add_warmup

VERSION = "1"  # the version folder in the staging folder, whatever its number in the repository will be

PILLOW_VERSION = "pillow_version"  # a parameter of both ensembles, for clients, and of the python step, for itself

_PIXELS = {"uint8": pb.TYPE_UINT8, "float32": pb.TYPE_FP32}

_HEADER = "# Written by `vitriton export`. The schema is Triton's model_config.proto.\n"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An export as Triton sees it.

    Attributes:
        name: the prefix of the five models' names.
        spec: the preprocessing, up to the pixels.
        normalization: the arithmetic on the pixels in the encoder's graph.
        shapes: the dims of each output, without the batch; the keys are the ensembles that exist.
        max_batch_size: the largest batch of all five models.
        model_id: the source of the weights: a hub id, or the name of a folder.
        revision: the commit on the hub; None for a folder.
        pillow_version: the version of Pillow in the reference that the parity gate compares the pixels with.
        pooling: the pooling that makes the embedding.
        l2_normalize: whether embeddings are scaled to length 1.
        precision: the precision of the encoders.
        output_dtype: the data type of the encoders' outputs.
        fingerprint: the name of the embedding space.
        serving: the settings with which Triton runs it.
        verification: the options of the export that change its images or its gates, by the names of `ExportOptions`;
            `vitriton verify` reads them from a running server.
    """

    name: str
    spec: PreprocessSpec
    normalization: Normalization
    shapes: dict[names.Kind, tuple[int, ...]]
    max_batch_size: int
    model_id: str
    revision: str | None
    pillow_version: str
    pooling: Pooling
    l2_normalize: bool
    precision: Precision
    output_dtype: OutputDtype
    fingerprint: str
    serving: Serving = field(default_factory=Serving)
    verification: Mapping[str, Any] = field(default_factory=dict)

    @property
    def preprocess_name(self) -> str:
        """The name of the python step."""
        return names.first_step_name(self.name)

    def encoder_name(self, kind: names.Kind) -> str:
        """Returns the name of the ONNX Runtime step."""
        return names.encoder_name(self.ensemble_name(kind))

    def ensemble_name(self, kind: names.Kind) -> str:
        """Returns the name of the ensemble, which clients call."""
        return names.ensemble_name(self.name, kind)

    @property
    def model_names(self) -> list[str]:
        """The names of all models, each after those that it needs: the order in which a repository may receive them."""
        return list(dict.fromkeys([self.preprocess_name, *names.model_names(self.name, self.shapes)]))

    @property
    def output_type(self) -> str:
        """The data type of the outputs, as Triton writes it."""
        return self.output_dtype.upper()

    @property
    def pixels(self) -> list[int]:
        """The dims of the tensor between the two steps."""
        return [self.spec.height, self.spec.width, 3]


def write(deployment: Deployment, folder: Path) -> None:
    """Writes the text files of the deployment; model.onnx and manifest.json, which depend on weights, come later."""
    for name in deployment.model_names:
        (folder / name / VERSION).mkdir(parents=True, exist_ok=True)
    write_configs(deployment, folder, int(VERSION))
    version = folder / deployment.preprocess_name / VERSION
    (version / "preprocess.json").write_text(deployment.spec.to_json())
    model = resources.files("vitriton_export") / "triton" / "preprocess" / "model.py"
    (version / "model.py").write_bytes(model.read_bytes())
    _copy_preprocessing(version / disk.PREPROCESSING)


def write_configs(deployment: Deployment, folder: Path, version: int) -> None:
    """Writes the configurations for a version, which the ensembles name for themselves and for their steps."""
    for name, config in configs(deployment, version).items():
        (folder / name / disk.CONFIG).write_text(_HEADER + text_format.MessageToString(config))


def configs(deployment: Deployment, version: int) -> dict[str, pb.ModelConfig]:
    """Returns model → configuration, in the order of `Deployment.model_names`."""
    made = {deployment.preprocess_name: _preprocess_config(deployment)}
    made |= {deployment.encoder_name(kind): _encoder_config(deployment, kind) for kind in deployment.shapes}
    for config in made.values():
        # A new version is loaded beside the old one; the ensembles name the old one until they name the new one.
        config.version_policy.all.SetInParent()
    for kind in deployment.shapes:
        made[deployment.ensemble_name(kind)] = _ensemble_config(deployment, kind, version)
    for config in made.values():
        # on the steps too: the next export recognizes its own models by it
        _add_parameters(config, {disk.FINGERPRINT: deployment.fingerprint})
    return made


def read_fingerprint(config_file: Path) -> str | None:
    """Returns the fingerprint in a config.pbtxt; None without such a file, or without a fingerprint in it."""
    config = disk.read_config(config_file.parent)
    return None if config is None else disk.fingerprint(config)


def _copy_preprocessing(target: Path) -> None:
    target.mkdir(exist_ok=True)
    for source in resources.files("vitriton.preprocessing").iterdir():
        if source.name.endswith(".py"):  # no compiled files
            (target / source.name).write_bytes(source.read_bytes())


def _preprocess_config(deployment: Deployment) -> pb.ModelConfig:
    config = pb.ModelConfig(name=deployment.preprocess_name, backend="python", max_batch_size=deployment.max_batch_size)
    config.input.add(name=names.IMAGE, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=names.PIXELS, data_type=_PIXELS[deployment.spec.dtype.name], dims=deployment.pixels)
    _add_parameters(config, {PILLOW_VERSION: deployment.pillow_version})
    # One instance: it decodes on as many threads as there are cores, and a second one would only compete for them.
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    add_batching(config, deployment.serving, delay=False)
    return config


def _encoder_config(deployment: Deployment, kind: names.Kind) -> pb.ModelConfig:
    config = pb.ModelConfig(
        name=deployment.encoder_name(kind), backend="onnxruntime", max_batch_size=deployment.max_batch_size
    )
    config.input.add(name=names.PIXELS, data_type=_PIXELS[deployment.spec.dtype.name], dims=deployment.pixels)
    _add_output(config, deployment, kind)
    add_instances(config, deployment.serving)
    preferred = deployment.serving.preferred_batch_size(deployment.max_batch_size, deployment.precision)
    add_batching(config, deployment.serving, delay=True, preferred=preferred)
    prefix = f"{deployment.fingerprint}-{kind}-{__version__}"
    add_accelerator(config, deployment.serving, precision=deployment.precision, cache_prefix=prefix)
    add_warmup(config, deployment.serving)
    return config


def _ensemble_config(deployment: Deployment, kind: names.Kind, version: int) -> pb.ModelConfig:
    config = pb.ModelConfig(
        name=deployment.ensemble_name(kind), platform="ensemble", max_batch_size=deployment.max_batch_size
    )
    config.input.add(name=names.IMAGE, data_type=pb.TYPE_STRING, dims=[1])
    _add_output(config, deployment, kind)
    config.version_policy.specific.versions.append(version)
    steps = config.ensemble_scheduling.step
    preprocess = steps.add(model_name=deployment.preprocess_name, model_version=version)
    preprocess.input_map[names.IMAGE] = names.IMAGE
    preprocess.output_map[names.PIXELS] = names.PIXELS
    encode = steps.add(model_name=deployment.encoder_name(kind), model_version=version)
    encode.input_map[names.PIXELS] = names.PIXELS
    encode.output_map[names.OUTPUT[kind]] = names.OUTPUT[kind]
    _add_parameters(config, _ensemble_parameters(deployment))
    return config


def _ensemble_parameters(deployment: Deployment) -> dict[str, str]:
    """Returns what clients cannot see from the tensors, including what they need to make the pixels themselves."""
    parameters = {
        "model": deployment.model_id,
        "pooling": deployment.pooling,
        "l2_normalize": str(deployment.l2_normalize).lower(),
        "precision": deployment.precision,
        "preprocess": json.dumps(json.loads(deployment.spec.to_json()), separators=(",", ":")),
        "normalization": json.dumps(deployment.normalization.to_dict(), separators=(",", ":")),
        PILLOW_VERSION: deployment.pillow_version,
    }
    if deployment.revision is not None:
        parameters["revision"] = deployment.revision
    if deployment.verification:
        parameters["verification"] = json.dumps(dict(deployment.verification), separators=(",", ":"), sort_keys=True)
    return parameters


def _add_output(config: pb.ModelConfig, deployment: Deployment, kind: names.Kind) -> None:
    data_type = pb.DataType.Value(f"TYPE_{deployment.output_type}")
    config.output.add(name=names.OUTPUT[kind], data_type=data_type, dims=deployment.shapes[kind])


def _add_parameters(config: pb.ModelConfig, parameters: Mapping[str, str]) -> None:
    for key, value in parameters.items():
        config.parameters[key].string_value = value
