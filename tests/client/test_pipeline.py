"""vitriton.pipeline against a real Triton with tiny models; its numbers against transformers' are in tests/e2e."""

import base64
import copy
import inspect
import io
import itertools
import json
import pickle
import subprocess
import sys
from collections import UserList
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import MappingProxyType

import numpy as np
import pytest
import torch
from client.conftest import write_model
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2 as pb
from vitriton import ContractMismatch, InvalidImage, ModelNotFound, Options, VitritonError, pipeline
from vitriton._wire.transport import ModelStatus
from vitriton.preprocessing import CenterCrop, PreprocessSpec, Resize
from vitriton.testing import CallError, Code, FakeTransport

COMMIT = "5dca96d358b3fcb9d53b3d3881eb1ae20b6752d1"
SPEC = PreprocessSpec((Resize("bilinear", height=40, width=40), CenterCrop(32, 32)), 32, 32)
PHOTO = {
    "model": "org/photo",
    "revision": COMMIT,
    "precision": "fp32",
    "pooling": "pooler",
    "l2_normalize": "false",
    "fingerprint": "space-1",
    "preprocess": SPEC.to_json(),
    "normalization": json.dumps({"rescale_factor": 1 / 255, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}),
}
EXPORTS = {
    "photo": PHOTO,
    "classifier": PHOTO | {"model": "org/classifier", "pooling": "cls", "precision": "fp16"},
    "unit": PHOTO | {"model": "org/unit", "l2_normalize": "true"},
    "twin-a": PHOTO | {"model": "org/twin"},
    "twin-b": PHOTO | {"model": "org/twin", "precision": "int8"},
    "folder": {key: PHOTO[key] for key in PHOTO if key != "revision"} | {"model": "my-checkpoint"},
    "plain": {},
}
DIMS = {"pooled": ("embedding", [4]), "unpooled": ("last_hidden_state", [3, 4])}


def write_export(repository, name, parameters, kinds=tuple(DIMS)):
    """Ensembles around the tiny models, with what an export tells of itself."""
    for kind in kinds:
        output, dims = DIMS[kind]
        config = pb.ModelConfig(platform="ensemble", max_batch_size=8)
        config.input.add(name="image", data_type=pb.TYPE_STRING, dims=[1])
        config.output.add(name=output, data_type=pb.TYPE_FP32, dims=dims)
        step = config.ensemble_scheduling.step.add(model_name=f"base_{kind}", model_version=-1)
        step.input_map["image"] = "image"
        step.output_map[output] = output
        for key, value in parameters.items():
            config.parameters[key].string_value = value
        folder = repository / f"{name}_{kind}"
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Triton with the exports."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("exports")
    for kind in DIMS:
        write_model(repository, f"base_{kind}")
    for name, parameters in EXPORTS.items():
        write_export(repository, name, parameters)
    write_export(repository, "vectors", PHOTO | {"model": "org/vectors"}, ["pooled"])
    with TritonServer(repository) as server:
        yield server


@pytest.fixture(scope="module")
def url(server):
    """Its address."""
    return server.grpc_address


@pytest.fixture(scope="module")
def pipe(url):
    """The pipeline that most tests call."""
    with pipeline("image-feature-extraction", model="photo", url=url) as made:
        yield made


@pytest.fixture(scope="module")
def paths(tmp_path_factory, files):
    """The pictures, as files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{index}.png" for index in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return [str(path) for path in paths]


class Indexed:
    """A data set as torch's are: it has indices and a length, cannot be iterated, and does not raise IndexError."""

    def __init__(self, items):
        self._items = items

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        return self._items[index % len(self._items)]


def test_the_signature_is_the_reference_s():
    """Every parameter of transformers.pipeline is there, in its place, with its default."""
    import transformers

    theirs = inspect.signature(transformers.pipeline).parameters
    ours = inspect.signature(pipeline).parameters
    positional = [name for name in theirs if name != "kwargs"]
    assert list(ours)[: len(positional)] == positional
    assert all(ours[name].default == theirs[name].default for name in positional)
    assert {"pool", "return_tensors", "timeout", "image_processor_kwargs", "batch_size", "num_workers"} <= set(ours)


def test_one_image_gives_a_row_of_one(pipe, paths, embeddings):
    """Lists of floats with the batch's dimension, of tokens unless the pooled output is asked for."""
    tokens = pipe(paths[0])
    assert np.shape(tokens) == (1, 3, 4)
    assert isinstance(tokens[0][0][0], float)
    assert np.allclose(pipe(paths[0], pool=True), embeddings[:1])
    assert np.allclose(tokens, np.repeat(embeddings[:1, None], 3, axis=1))


def test_tensors_are_float32_and_may_be_written_to(pipe, paths, embeddings):
    """True and "pt" mean the same; the tensor is on the CPU and belongs to the caller."""
    for wanted in (True, "pt"):
        tensor = pipe(paths[0], pool=True, return_tensors=wanted)
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, torch.from_numpy(embeddings[:1]))
        tensor += 1
    tensors = pipe(paths[:2], return_tensors=True)
    assert [tuple(tensor.shape) for tensor in tensors] == [(1, 3, 4)] * 2


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(lambda path: path, id="path"),
        pytest.param(Path, id="Path"),
        pytest.param(lambda path: Path(path).read_bytes(), id="bytes"),
        pytest.param(lambda path: open(path, "rb"), id="file"),  # noqa: PTH123, SIM115 - read at once
        pytest.param(Image.open, id="PIL"),
        pytest.param(lambda path: np.asarray(Image.open(path)), id="array"),
        pytest.param(lambda path: base64.b64encode(Path(path).read_bytes()).decode(), id="base64"),
        pytest.param(lambda path: base64.encodebytes(Path(path).read_bytes()).decode(), id="base64 in lines"),
        pytest.param(
            lambda path: f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}", id="data URI"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the files are left to the garbage collector
def test_kinds_of_images(pipe, paths, embeddings, image):
    """What the reference takes (path, PIL image, base64 text, data URI), and what only the client takes."""
    assert np.allclose(pipe(image(paths[0]), pool=True), embeddings[:1])
    assert np.allclose(pipe([image(paths[0])], pool=True), embeddings[:1][None])


def test_lists_and_tuples_give_lists(pipe, paths, embeddings):
    """In order, and none for none."""
    for inputs in (paths, tuple(paths)):
        rows = pipe(inputs, pool=True)
        assert isinstance(rows, list)
        assert np.allclose(rows, embeddings[:, None])
    assert pipe([]) == []
    assert pipe(()) == []


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param(lambda paths: (path for path in paths), id="generator"),
        pytest.param(lambda paths: map(str, paths), id="map"),
        pytest.param(Indexed, id="indexed"),
        pytest.param(UserList, id="sequence"),
    ],
)
def test_generators_and_data_sets_give_iterators(pipe, paths, embeddings, inputs):
    """In order, one answer an image."""
    rows = pipe(inputs(paths), pool=True)
    assert iter(rows) is rows
    assert np.allclose(list(rows), embeddings[:, None])


def test_torch_data_sets(pipe, paths, embeddings):
    """Those with a length and those without."""

    class Mapped(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, index):
            return paths[index]

    class Streamed(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(paths)

    for dataset in (Mapped(), Streamed()):
        answers = pipe(dataset, pool=True, return_tensors=True)
        assert torch.allclose(torch.cat(list(answers)), torch.from_numpy(embeddings))
    assert len(pipe(Mapped())) == len(paths)


def test_the_answers_for_a_data_set_begin_anew(pipe, paths):
    """As often as they are iterated; a generator's go on where they were."""
    answers = pipe(Indexed(paths), pool=True)
    next(answers)
    assert len(list(answers)) == len(list(answers)) == len(answers) == len(paths)
    answers = pipe((path for path in paths), pool=True)
    next(iter(answers))
    assert len(list(answers)) == len(paths) - 1
    with pytest.raises(TypeError, match="not known"):
        len(answers)


def test_an_empty_generator_gives_an_empty_list(pipe):
    """As the reference answers it."""
    assert pipe(image for image in []) == []


def test_an_endless_generator_is_read_as_far_as_needed(url, paths):
    """Images are taken within the client's bounds; closing ends the reading."""
    taken = itertools.count()

    def images():
        for path in itertools.cycle(paths):
            next(taken)
            yield path

    options = Options(max_in_flight=1, read_ahead=4)
    with pipeline(model="photo", url=url, client_options={"options": options}) as pipe:
        answers = pipe(images())
        assert next(taken) == 1  # the first image only, to see whether there is one
        for _ in range(5):
            next(answers)
        answers.close()
        assert next(taken) <= 5 + 8 + 2 * 4 + 2
        assert next(answers, None) is None


def test_a_bad_image_costs_its_own_answer(pipe, paths, tmp_path):
    """The answers before it come first; the iterator goes on after it; a list ends with it."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    inputs = [paths[0], str(bad), paths[1]]
    answers = pipe((path for path in inputs), pool=True)
    first = next(answers)
    with pytest.raises(InvalidImage, match=r"image 1 .*bad\.png"):
        next(answers)
    assert [first, *answers] == pipe([paths[0], paths[1]], pool=True)
    with pytest.raises(InvalidImage, match=r"image 1 .*bad\.png"):
        pipe(inputs)
    with pytest.raises(InvalidImage, match="no such file"):
        pipe("missing.png")
    with pytest.raises(InvalidImage, match=r"image 0 .*: a list of 2 in place of one image; .* not in batches"):
        pipe([paths[:2], paths[2:]])


@pytest.mark.parametrize("inputs", [None, 3, {"image": "a.png"}, {"a.png", "b.png"}])
def test_what_is_no_images(pipe, inputs):
    """A TypeError as the reference's; so are a dict and a set, which could be taken for data sets."""
    with pytest.raises(TypeError, match="inputs has the type "):
        pipe(inputs)


def test_predict_and_transform(pipe, paths):
    """The names that scikit-learn has for it."""
    assert pipe.predict(paths[:2]) == pipe.transform(paths[:2]) == pipe(paths[:2])


def test_what_is_set_once_counts_for_every_call(url, paths):
    """A call may say otherwise."""
    with pipeline(model="photo", url=url, pool=True, return_tensors=True, batch_size=2, num_workers=0) as pipe:
        assert pipe(paths[0]).shape == (1, 4)
        assert pipe(paths[0], pool=False).shape == (1, 3, 4)
        assert np.shape(pipe(paths[0], return_tensors=False, batch_size=1, num_workers=4)) == (1, 4)


def test_what_has_no_bearing_is_accepted(url, paths, embeddings):
    """Where and how a model is loaded, and what the reference itself does not use."""
    pipe = pipeline(
        "image-feature-extraction",
        "photo",
        tokenizer="gpt2",
        use_fast=False,
        token="hf_secret",
        device=torch.device("cpu"),
        device_map="auto",
        dtype="auto",
        trust_remote_code=False,
        model_kwargs={"low_cpu_mem_usage": True, "cache_dir": "/tmp", "dtype": "float32"},
        url=url,
        framework="pt",
        binary_output=True,
        args_parser=object(),
        local_files_only=True,
        tokenize_kwargs={},
    )
    with pipe:
        assert pipe.binary_output
        assert np.allclose(pipe(paths[0], pool=True, tokenize_kwargs={}), embeddings[:1])


def test_what_agrees_with_the_served_model_is_accepted(url):
    """Its id, its commit, its precision, its image processor."""
    from transformers import ViTImageProcessorPil

    settings = {"size": {"height": 40, "width": 40}, "resample": 2, "do_center_crop": True, "crop_size": 32}
    values = {"image_mean": [0.5, 0.5, 0.5], "image_std": 0.25, "do_rescale": True, "rescale_factor": 1 / 255}
    processor = ViTImageProcessorPil(**settings | {"crop_size": {"height": 32, "width": 32}, "image_std": [0.25] * 3})
    for given in (
        {"config": "org/photo", "image_processor": "org/photo", "feature_extractor": "photo"},
        {"revision": COMMIT},
        {"revision": COMMIT[:7]},
        {"dtype": torch.float32},
        {"torch_dtype": "float32"},
        {"image_processor": processor},
        {"feature_extractor": processor},
        {"image_processor_kwargs": settings},
        {"image_processor_kwargs": values},
        {"image_processor_kwargs": {"size": 40}},
        {"image_processor_kwargs": {}},
    ):
        pipeline("image-feature-extraction", model="photo", url=url, **given).close()


class OwnProcessor:
    """Not of transformers."""


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"config": "org/other"}, ["'org/other'", "org/photo"]),
        ({"image_processor": "org/other"}, ["'org/other'", "org/photo"]),
        ({"image_processor": OwnProcessor()}, ["OwnProcessor", "transformers"]),
        ({"processor": OwnProcessor()}, ["OwnProcessor", "transformers"]),
        ({"revision": "main"}, ["'main'", COMMIT]),
        ({"code_revision": "v1"}, ["'v1'", COMMIT]),
        ({"dtype": torch.float16}, ["float16", "fp32"]),
        ({"torch_dtype": "bfloat16"}, ["bfloat16", "fp32"]),
        ({"model_kwargs": {"dtype": "float16"}}, ["float16", "fp32"]),
        ({"model_kwargs": {"add_pooling_layer": False}}, ["add_pooling_layer", "without it"]),
        ({"image_processor_kwargs": {"size": {"height": 100, "width": 100}}}, ["100", "40"]),
        ({"image_processor_kwargs": {"size": 100}}, ["100", "40"]),
        ({"image_processor_kwargs": {"resample": 3}}, ["bicubic", "bilinear"]),
        ({"image_processor_kwargs": {"do_resize": False}}, ["do_resize is False", "with True"]),
        ({"image_processor_kwargs": {"do_center_crop": False}}, ["do_center_crop is False", "with True"]),
        ({"image_processor_kwargs": {"do_convert_rgb": True}}, ["True", "False"]),
        ({"image_processor_kwargs": {"do_normalize": False}}, ["do_normalize is False", "with True"]),
        ({"image_processor_kwargs": {"image_std": [0.5, 0.5, 0.5]}}, ["0.5", "0.25"]),
        ({"image_processor_kwargs": {"do_flip": True}}, ["do_flip", "in these settings alone: do_resize, size, "]),
        ({"image_processor_kwargs": {"size": "large"}}, ["large", "are invalid"]),
    ],
)
def test_what_contradicts_the_served_model_is_refused(url, given, names):
    """The error names both sides, and is a ValueError as well."""
    with pytest.raises(ContractMismatch) as caught:
        pipeline("image-feature-extraction", model="photo", url=url, **given)
    assert isinstance(caught.value, ValueError)
    assert caught.value.model == "photo"
    assert all(name in str(caught.value) for name in [*names, "model photo on the server at", "; "])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_another_image_processor_is_refused(url):
    """By the first setting that differs."""
    from transformers import BitImageProcessorPil, ViTImageProcessorPil

    for processor, names in (
        (ViTImageProcessorPil(), ["224", "40"]),
        (BitImageProcessorPil(), ["shortest_edge", "40"]),
    ):
        with pytest.raises(ContractMismatch) as caught:
            pipeline(model="photo", url=url, image_processor=processor)
        assert all(name in str(caught.value) for name in names)


def test_what_a_server_does_not_tell_is_not_taken_for_agreement(url):
    """A model without parameters agrees with nothing, and is usable."""
    for given in ({"dtype": "float32"}, {"revision": COMMIT}, {"image_processor_kwargs": {"size": 40}}):
        with pytest.raises(ContractMismatch):
            pipeline(model="plain", url=url, **given)
    with pipeline(model="plain", url=url) as pipe:
        assert pipe.model.name_or_path is None


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"task": "image-classification"}, ValueError, "image-classification"),
        ({"task": None, "model": None}, ValueError, "neither task nor model"),
        ({"model": torch.nn.Identity()}, TypeError, "vitriton export"),
        ({"model": ""}, ValueError, "empty"),
        ({"framework": "tf"}, ValueError, "tf"),
        ({"pipeline_class": OwnProcessor}, ValueError, "OwnProcessor"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"num_workers": -1}, ValueError, "num_workers is -1"),
        ({"timeout": 0}, ValueError, "timeout is 0"),
        ({"pool": "cls"}, TypeError, "pool is 'cls'"),
        ({"return_tensors": "np"}, ValueError, "return_tensors is 'np'"),
        ({"url": None}, ValueError, "url is missing"),
        ({"client_options": {"speed": 3}}, TypeError, "speed"),
        ({"top_k": 3}, TypeError, "top_k"),
    ],
)
def test_wrong_use(url, given, error, text):
    """Says which parameter, and what it may be."""
    with pytest.raises(error, match=text):
        pipeline(**{"task": "image-feature-extraction", "model": "photo", "url": url} | given)


def test_calls_are_checked_too(pipe, paths):
    """What may be said in a call is checked there."""
    with pytest.raises(ContractMismatch, match="size comes to"):
        pipe(paths[0], image_processor_kwargs={"size": 100})
    with pytest.raises(ValueError, match="batch_size is 0"):
        pipe(paths, batch_size=0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        pipe(paths, top_k=3)


def test_pooling_other_than_the_reference_s_is_said(url, paths):
    """pool=True means pooler_output: another pooling has to be allowed."""
    for model, says in (("classifier", "pools by cls"), ("unit", "length 1"), ("plain", "does not say")):
        with pipeline(model=model, url=url) as pipe:
            assert np.shape(pipe(paths[0])) == (1, 3, 4)
            with pytest.raises(ValueError, match=f"{says}.*allow_served_pooling=True"):
                pipe(paths[0], pool=True)
        with pytest.raises(ContractMismatch, match=says):
            pipeline(model=model, url=url, pool=True)
        with pipeline(model=model, url=url, pool=True, allow_served_pooling=True) as pipe:
            assert np.shape(pipe(paths[0])) == (1, 4)


def test_an_export_with_vectors_alone(url, paths):
    """Its pipeline needs pool=True, and says so."""
    with pipeline(model="vectors", url=url) as pipe:
        with pytest.raises(ContractMismatch, match="pass pool=True"):
            pipe(paths[0])
        assert np.shape(pipe(paths[0], pool=True)) == (1, 4)


def test_half_precision_gives_half_tensors(url, paths):
    """As the reference's, where it is asked for; "auto" is float32."""
    with pipeline(model="classifier", url=url, dtype=torch.float16, return_tensors=True) as pipe:
        assert pipe(paths[0]).dtype == torch.float16
        assert next(pipe(path for path in paths)).dtype == torch.float16
    with pipeline(model="classifier", url=url, return_tensors=True) as pipe:
        assert pipe(paths[0]).dtype == torch.float32


def test_a_model_is_found_by_the_id_that_was_exported(url, paths, embeddings):
    """Hub id or folder's name; the name of the export goes first."""
    for model, name in (("org/photo", "photo"), ("my-checkpoint", "folder"), ("photo", "photo")):
        with pipeline("image-feature-extraction", model=model, url=url) as pipe:
            assert pipe.model.name == name
            assert pipe.model.name_or_path == EXPORTS[name]["model"]
            assert np.allclose(pipe(paths[0], pool=True), embeddings[:1])


def test_a_model_that_cannot_be_found(url):
    """The error lists what there is; several exports of one id are listed too; a path is explained."""
    with pytest.raises(ModelNotFound, match=r"org/missing.*twin-a \(of org/twin\)") as caught:
        pipeline(model="org/missing", url=url)
    assert "photo" in caught.value.available
    with pytest.raises(ModelNotFound, match=r"missing.*photo \(of org/photo\)"):
        pipeline(model="missing", url=url)
    with pytest.raises(ContractMismatch, match=r"2 exports.*twin-a \(fp32, pooler\), twin-b \(int8, pooler\)"):
        pipeline(model="org/twin", url=url)
    with pytest.raises(ModelNotFound, match=r"^/models/missing is a path, and a server has its models by name; the"):
        pipeline(model=Path("/models/missing"), url=url)
    with pytest.raises(ModelNotFound, match=r"^\./photo is a path.*; the server at .* has .*; did you mean 'photo'\?$"):
        pipeline(model="./photo", url=url)


def test_the_default_model_is_the_reference_s(url, caplog):
    """With a warning in the log, as there."""
    with pytest.raises(ModelNotFound, match="google/vit-base-patch16-224"):
        pipeline("image-feature-extraction", url=url)
    assert "no model is given" in caplog.text


class Changing(FakeTransport):
    """Has the models of `exports`, which may change, and lists them; one of them has failed to load."""

    def __init__(self, exports, *, tells=True):
        super().__init__()
        self.exports = exports
        self.tells = tells

    def model_config(self, model, timeout_s):
        name = model.rpartition("_")[0]
        if name not in self.exports:
            raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
        if self.exports[name] is None:
            raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' has no available versions")
        return replace(super().model_config(model, timeout_s), parameters=self.exports[name])

    def repository_index(self, timeout_s):
        if not self.tells:
            raise CallError(Code.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-protocol-x'")
        return [ModelStatus(name=f"{name}_pooled", ready=True, state="READY") for name in self.exports]


def test_another_model_under_the_name_is_noticed(url):
    """The fingerprint that was read at the start is expected from then on; the user's own goes first."""
    with pytest.raises(ContractMismatch, match="space-2"):
        pipeline(model="photo", url=url, client_options={"expect_fingerprint": "space-2"})
    transport = Changing({"photo": PHOTO})
    with pipeline(model="photo", client_options={"transport": transport}) as pipe:
        assert len(pipe([b"one", b"two"])) == 2
        transport.exports["photo"] = PHOTO | {"fingerprint": "space-3"}
        with pytest.raises(ContractMismatch, match="space-3"):
            pipe(b"one", timeout=5.0)  # by a client of its own, which reads what is served
        assert transport.closed == 0
    assert transport.closed == 1


def test_a_model_that_is_not_loaded_is_not_waited_for():
    """When one is looked for by its hub id."""
    transport = Changing({"broken": None, "photo": PHOTO})
    with pipeline(model="org/photo", client_options={"transport": transport}) as pipe:
        assert pipe.model.name == "photo"


def test_a_server_that_does_not_list_its_models():
    """A hub id is found under the name that exports have by default, and under no other."""
    transport = Changing({"photo": PHOTO}, tells=False)
    with pipeline(model="org/photo", client_options={"transport": transport}) as pipe:
        assert pipe.model.name == "photo"
    for model in ("other/photo", "org/missing"):
        with pytest.raises(ModelNotFound, match=f"{model}, and none that was exported from it; it does not list"):
            pipeline(model=model, client_options={"transport": transport})


def test_attributes(pipe):
    """Those that there are; another says what this is."""
    assert pipe.task == "image-feature-extraction"
    assert pipe.model.name == "photo"
    assert (pipe.model.precision, pipe.model.pooling, pipe.model.l2_normalize) == ("fp32", "pooler", False)
    assert (pipe.model.revision, pipe.model.fingerprint) == (COMMIT, "space-1")
    assert "photo" in repr(pipe)
    assert pickle.loads(pickle.dumps(pipe.model)) == pipe.model
    for name in ("image_processor", "device", "save_pretrained"):
        assert not hasattr(pipe, name)
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'.*on a server"):
            getattr(pipe, name)
    with pytest.raises(AttributeError, match=r"'config'.*on a server"):
        _ = pipe.model.config


FORK = """
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from vitriton import pipeline

where, *paths = sys.argv[1:]
context = multiprocessing.get_context("fork")
with pipeline(model="photo", url=where, pool=True) as pipe, ProcessPoolExecutor(2, mp_context=context) as workers:
    print(json.dumps(list(workers.map(pipe, paths))))
"""
COPIES = (lambda pipe: pickle.loads(pickle.dumps(pipe)), copy.copy, copy.deepcopy)


@pytest.mark.parametrize("again", COPIES)
def test_a_copy_is_the_same_pipeline(again, url, paths):
    """With the same model, settings and arguments, and with its own connections."""
    options = {"headers": MappingProxyType({"x-team": "search"}), "options": Options(read_threads=2), "timeout_s": 90.0}
    settings = {"pool": True, "return_tensors": True, "binary_output": True, "dtype": "float32"}
    with pipeline("image-feature-extraction", "photo", url=[url], client_options=options, **settings) as pipe:
        other = again(pipe)
        assert (type(other), other.model, other.binary_output) == (type(pipe), pipe.model, True)
        assert vars(other._client._core.settings) == vars(pipe._client._core.settings)
        assert torch.equal(other(paths[0]), pipe(paths[0]))
        assert other(paths[0], timeout=3.0).shape == (1, 4)
    with other:
        assert other(paths[0]).shape == (1, 4)


def pickled_apart(value):
    """A pickle that does not depend on whether equal texts in the value are one object."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()


def test_a_pickle_is_the_same_each_time(url):
    """By it, caches recognize a function that uses the pipeline."""
    with pipeline("image-feature-extraction", "photo", url=url) as first, pipeline(model="photo", url=url) as second:
        again = pickle.loads(pickle.dumps(first))
        assert pickled_apart(first) == pickled_apart(second) == pickled_apart(again)


def test_forked_workers(server, paths, embeddings):
    """They get the pipeline with each task, and make their own connections."""
    for where in (f"http://{server.http_address}", f"grpc://{server.grpc_address}"):
        done = subprocess.run([sys.executable, "-c", FORK, where, *paths], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(json.loads(done.stdout), embeddings[:, None], atol=1e-4)


@pytest.fixture
def slow_site(files):
    """An HTTP server that answers /fast at once, and all else not before the test ends."""
    waiting = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path == "/fast":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(files[0])
            else:
                waiting.append(self.connection)
                self.rfile.read(1)  # until the client gives up

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_timeout_is_for_fetching_urls(url, pipe, slow_site, embeddings):
    """Of a call, or of all; it does not limit what else a call does."""
    assert np.allclose(pipe(f"{slow_site}/fast", pool=True, timeout=30.0), embeddings[:1])
    with pytest.raises(InvalidImage, match=r"no complete answer in 0\.2 s"):
        pipe(f"{slow_site}/slow", timeout=0.2)
    with pipeline(model="photo", url=url, timeout=0.3) as hurried:
        with pytest.raises(InvalidImage, match=r"no complete answer in 0\.3 s"):
            hurried([f"{slow_site}/slow"])
        with pytest.raises(InvalidImage, match=r"no complete answer in 0\.2 s"):
            next(hurried((image for image in [f"{slow_site}/slow"]), timeout=0.2))


def test_a_server_that_does_not_answer():
    """The client's own error, in the time that its options give."""
    options = {"timeout_s": 0.5}
    with pytest.raises(VitritonError, match=r"127\.0\.0\.1:1"):
        pipeline(model="photo", url="127.0.0.1:1", client_options=options)
    with pytest.raises(VitritonError, match=r"127\.0\.0\.1:1"):
        pipeline(model="org/photo", url="127.0.0.1:1", client_options=options)


def test_neither_torch_nor_transformers_is_imported(url, paths):
    """Lists come without them; tensors say what to install where torch is missing."""
    code = f"""
import sys
sys.modules["torch"] = None  # import torch raises ImportError
from vitriton import pipeline
pipe = pipeline(model="photo", url={url!r})
assert len(pipe({paths[0]!r})[0]) == 3
assert "transformers" not in sys.modules
try:
    pipe({paths[0]!r}, return_tensors=True)
except ImportError as error:
    print(error)
pipe.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "pip install torch" in done.stdout
    assert done.stderr == ""
