"""A deployment as data, and the text files of the model repository that follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from vitriton._repository import disk, names
from vitriton._version import __version__

from vitriton_export._options import OutputDtype, Precision
from vitriton_export._repository.first_step import FirstStep
from vitriton_export._serving import Serving, add_accelerator, add_batching, add_cuda, add_instances, add_warmup

VERSION = "1"  # the version folder in the staging folder, whatever its number in the repository will be

_HEADER = "# Written by `vitriton export`. The schema is Triton's model_config.proto.\n"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An export as Triton sees it.

    Attributes:
        name: the prefix of the models' names.
        step: the first step.
        shapes: the dims of each output, without the batch; the keys are the ensembles that exist.
        max_batch_size: the largest batch of all models.
        model_id: the source of the weights: a hub id, or the name of a folder.
        revision: the commit on the hub; None for a folder.
        pooling: the pooling that makes the embedding.
        l2_normalize: whether embeddings are scaled to length 1.
        precision: the precision of the encoders.
        output_dtype: the data type of the encoders' outputs.
        fingerprint: the name of the embedding space.
        logits: what turns the cosine of an image and a text into a logit: logit_scale and logit_bias, where the model
            has them.
        serving: the settings with which Triton runs it.
        verification: the options of the export that change its images or its gates, by the names of `ExportOptions`;
            `vitriton verify` reads them from a running server.
    """

    name: str
    step: FirstStep
    shapes: dict[names.Kind, tuple[int, ...]]
    max_batch_size: int
    model_id: str
    revision: str | None
    pooling: str
    l2_normalize: bool
    precision: Precision
    output_dtype: OutputDtype
    fingerprint: str
    logits: Mapping[str, float] = field(default_factory=dict)
    serving: Serving = field(default_factory=Serving)
    verification: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first_step_name(self) -> str:
        """The name of the first step."""
        return names.first_step_name(self.name, names.kind_of(True, self.step.tower))

    def encoder_name(self, kind: names.Kind) -> str:
        """Returns the name of the ONNX Runtime step."""
        return names.encoder_name(self.ensemble_name(kind))

    def ensemble_name(self, kind: names.Kind) -> str:
        """Returns the name of the ensemble, which clients call."""
        return names.ensemble_name(self.name, kind)

    @property
    def model_names(self) -> list[str]:
        """The names of all models, each after those that it needs: the order in which a repository may receive them."""
        return list(dict.fromkeys([self.first_step_name, *names.model_names(self.name, self.shapes)]))

    @property
    def output_type(self) -> str:
        """The data type of the outputs, as Triton writes it."""
        return self.output_dtype.upper()


def model_names(deployments: Sequence[Deployment]) -> list[str]:
    """Returns the names of all models of the towers of an export, each after those that it needs, ensembles last."""
    kinds = [kind for deployment in deployments for kind in deployment.shapes]
    return names.model_names(deployments[0].name, kinds)


def write(deployment: Deployment, folder: Path) -> None:
    """Writes the text files of the deployment; model.onnx and manifest.json, which depend on weights, come later."""
    for name in deployment.model_names:
        (folder / name / VERSION).mkdir(parents=True, exist_ok=True)
    write_configs(deployment, folder, int(VERSION))
    deployment.step.write(folder / deployment.first_step_name / VERSION)


def write_configs(deployment: Deployment, folder: Path, version: int) -> None:
    """Writes the configurations for a version, which the ensembles name for themselves and for their steps."""
    for name, config in configs(deployment, version).items():
        (folder / name / disk.CONFIG).write_text(_HEADER + text_format.MessageToString(config))


def configs(deployment: Deployment, version: int) -> dict[str, pb.ModelConfig]:
    """Returns model → configuration, in the order of `Deployment.model_names`."""
    made = {deployment.first_step_name: _first_step_config(deployment)}
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


def _first_step_config(deployment: Deployment) -> pb.ModelConfig:
    config = pb.ModelConfig(name=deployment.first_step_name, backend="python", max_batch_size=deployment.max_batch_size)
    _add_client_input(config, deployment)
    for name, output in deployment.step.outputs.items():
        config.output.add(name=name, data_type=output.data_type, dims=output.dims)
    _add_parameters(config, deployment.step.parameters)
    config.instance_group.add(count=deployment.serving.preprocess_instances, kind=pb.ModelInstanceGroup.KIND_CPU)
    add_batching(config, deployment.serving, delay=False)
    return config


def _encoder_config(deployment: Deployment, kind: names.Kind) -> pb.ModelConfig:
    config = pb.ModelConfig(
        name=deployment.encoder_name(kind), backend="onnxruntime", max_batch_size=deployment.max_batch_size
    )
    for name in names.ENSEMBLES[kind].between:
        given = deployment.step.outputs[name]
        config.input.add(name=name, data_type=given.data_type, dims=given.dims)
    _add_output(config, deployment, kind)
    add_instances(config, deployment.serving, deployment.precision)
    preferred = deployment.serving.preferred_batch_size(deployment.max_batch_size, deployment.precision)
    add_batching(config, deployment.serving, delay=True, preferred=preferred)
    prefix = f"{deployment.fingerprint}-{kind}-{__version__}"
    add_accelerator(config, deployment.serving, precision=deployment.precision, cache_prefix=prefix)
    add_cuda(config, deployment.serving, precision=deployment.precision)
    add_warmup(config, deployment.serving)
    return config


def _ensemble_config(deployment: Deployment, kind: names.Kind, version: int) -> pb.ModelConfig:
    config = pb.ModelConfig(
        name=deployment.ensemble_name(kind), platform="ensemble", max_batch_size=deployment.max_batch_size
    )
    ensemble = names.ENSEMBLES[kind]
    _add_client_input(config, deployment)
    _add_output(config, deployment, kind)
    for name in ensemble.beside:
        given = deployment.step.outputs[name]
        config.output.add(name=name, data_type=given.data_type, dims=given.dims)
    config.version_policy.specific.versions.append(version)
    steps = config.ensemble_scheduling.step
    first = steps.add(model_name=deployment.first_step_name, model_version=version)
    first.input_map[ensemble.input] = ensemble.input
    encode = steps.add(model_name=deployment.encoder_name(kind), model_version=version)
    for name in ensemble.between:
        first.output_map[name] = encode.input_map[name] = name
    for name in ensemble.beside:
        first.output_map[name] = name
    encode.output_map[ensemble.output] = ensemble.output
    _add_parameters(config, _ensemble_parameters(deployment))
    return config


def _add_client_input(config: pb.ModelConfig, deployment: Deployment) -> None:
    kind = names.kind_of(True, deployment.step.tower)
    config.input.add(name=names.ENSEMBLES[kind].input, data_type=pb.TYPE_STRING, dims=[1])


def _ensemble_parameters(deployment: Deployment) -> dict[str, str]:
    """Returns what clients cannot see from the tensors."""
    parameters = {
        "model": deployment.model_id,
        "pooling": deployment.pooling,
        "l2_normalize": str(deployment.l2_normalize).lower(),
        "precision": deployment.precision,
        **deployment.step.ensemble_parameters,
        **{name: repr(value) for name, value in deployment.logits.items()},
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
