"""The texts of vitriton.pipeline's errors, for users who know transformers'; on a fake server."""

import copy
import logging
import multiprocessing
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from vitriton import ClientClosed, ContractMismatch, InvalidImage, ModelNotFound, pipeline
from vitriton.preprocessing import PreprocessSpec, Resize
from vitriton.testing import CallError, Code, FakeTransport, ModelStatus

PARAMETERS = {
    "model": "my-checkpoint",
    "precision": "fp32",
    "pooling": "pooler",
    "l2_normalize": "false",
    "preprocess": PreprocessSpec((Resize("bilinear", height=32, width=32),), 32, 32).to_json(),
}


class Server(FakeTransport):
    """Has one export, under the name photo, with some of its outputs."""

    def __init__(self, outputs=("pooled", "unpooled"), **parameters):
        super().__init__(parameters=PARAMETERS | parameters)
        self._models = [f"photo_{output}" for output in outputs]

    def model_config(self, model, timeout_s):
        if model not in self._models:
            raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
        return super().model_config(model, timeout_s)

    def repository_index(self, timeout_s):
        return [ModelStatus(name=model, ready=True, state="READY") for model in self._models]


def made(*, outputs=("pooled", "unpooled"), served=None, **arguments):
    """A pipeline on the fake server."""
    server = Server(outputs, **(served or {}))
    options = {"transport": server} | arguments.pop("client_options", {})
    return pipeline(**{"model": "photo", "client_options": options} | arguments)


def test_an_export_without_tokens(caplog):
    """Its pipeline warns when it is made, and says at a call what to pass; pool=True needs no warning."""
    with made(outputs=("pooled",)) as pipe:
        assert "pass pool=True" in caplog.text
        with pytest.raises(
            ContractMismatch, match=r"pool is False, the default.*only the pooled output; pass pool=True"
        ):
            pipe(b"image")
        assert len(pipe(b"image", pool=True)[0]) == 8
    caplog.clear()
    with made(outputs=("pooled",), pool=True) as pipe:
        assert len(pipe(b"image")[0]) == 8
    assert not caplog.records


def test_an_export_without_vectors():
    """The same for pool=True."""
    with pytest.raises(ContractMismatch, match=r"pool is True.*only the unpooled output; pass pool=False"):
        made(outputs=("unpooled",), pool=True)
    with made(outputs=("unpooled",)) as pipe:
        assert len(pipe(b"image")[0]) == 4


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model_kwargs": {"output_hidden_states": True}}, "leave it out: arguments of from_pretrained cannot"),
        (
            {"image_processor_kwargs": {"foo": True}},
            "foo is True, and .* do_pad, do_rescale, .*image_std; leave it out$",
        ),
        (
            {"image_processor_kwargs": {"do_resize": False}},
            "do_resize is False.* with True; .*--image-processor-kwargs",
        ),
        ({"image_processor": 5}, "image_processor has the type int, and .*; leave out image_processor, or give one"),
        (
            {"image_processor": Path("/models/my-checkpoint")},
            "my-checkpoint; leave out image_processor .it is a path, and",
        ),
        ({"config": "./my-checkpoint"}, "of my-checkpoint; leave out config .it is a path, and a server has its"),
        ({"dtype": "bogus"}, "dtype is bogus.* fp32; leave out dtype: exports compute in fp32, fp16, int8, int8-fast$"),
        ({"dtype": "float16"}, "leave out dtype, or export the model with --precision fp16, under another name$"),
        ({"revision": "main"}, "does not name the commit that it was exported from; leave out revision$"),
    ],
)
def test_advice_can_be_followed(given, says):
    """An error offers what exports can do, and nothing else."""
    with pytest.raises(ContractMismatch, match=says):
        made(**given)


def test_a_branch_is_told_from_another_commit():
    """Exports record commits alone."""
    commit = "5dca96d358b3fcb9d53b3d3881eb1ae20b6752d1"
    with pytest.raises(
        ContractMismatch, match=f"{commit}; leave out revision, or give a commit .* do not record branches"
    ):
        made(served={"revision": commit}, revision="main")
    with pytest.raises(ContractMismatch, match=f"{commit}; leave out revision, or export that commit"):
        made(served={"revision": commit}, revision="0123456")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"pool": 1}, TypeError, "pool is 1; it must be True or False"),
        ({"return_tensors": 1}, TypeError, "return_tensors is 1; it must be True or False"),
        ({"allow_served_pooling": "yes"}, TypeError, "allow_served_pooling is 'yes'; it must be True or False"),
        ({"client_options": {"model": "m"}}, ValueError, "client_options has 'model'; .* own argument model"),
        ({"client_options": {"address": "h"}}, ValueError, "client_options has 'address'; .* own argument url"),
        ({"model": "foto"}, ModelNotFound, r"has photo \(of my-checkpoint\); did you mean 'photo'\?"),
        ({"model": "/models/my-checkpoint"}, ModelNotFound, "is a path, .*; did you mean 'my-checkpoint'"),
    ],
)
def test_wrong_use(given, error, says):
    """Switches have one rule, and names that are nearly right are found."""
    with pytest.raises(error, match=says) as caught:
        made(**given)
    assert str(caught.value).count(": ") <= 2


def test_what_has_no_effect_is_logged(caplog):
    """One line has the names of the arguments that the server decides, and no values, which may be secrets."""
    caplog.set_level(logging.INFO, "vitriton")
    loading = {"attn_implementation": "sdpa"}
    made(device=0, batch_size=8, token="hf_secret", use_fast=False, model_kwargs=loading).close()
    (record,) = caplog.records
    assert record.getMessage().endswith(": use_fast, token, device, batch_size, model_kwargs['attn_implementation']")
    caplog.clear()
    made().close()
    assert not caplog.records


def test_pooling_by_the_cls_token_is_explained():
    """It may be the pooler's own, which an export does not tell."""
    with (
        made(served={"pooling": "cls"}) as pipe,
        pytest.raises(ContractMismatch, match=r"DINOv2.* pools by cls; .*allow_served_pooling=True"),
    ):
        pipe(b"image", pool=True)


def test_a_row_of_a_data_set_and_a_batch_are_no_images():
    """The error says what to give: one column, single images."""
    with made() as pipe:
        with pytest.raises(InvalidImage, match=r"keys image, label .* such as dataset\['image'\]"):
            next(pipe(row for row in [{"image": b"image", "label": 1}]))
        with pytest.raises(InvalidImage, match=r"a list of 2 in place of one image; .* not in batches"):
            next(pipe(batch for batch in [[b"one", b"two"]]))


def test_answers_are_no_list():
    """Their text and the error for an index say how to make one."""
    with made() as pipe:
        answers = pipe(image for image in [b"one", b"two"])
        assert repr(answers) == "<answers of model photo, computed one by one: list(...) makes a list of them>"
        with pytest.raises(TypeError, match=r"one by one.*list\(\.\.\.\)"):
            answers[0]
        assert len(list(answers)) == 2


def test_attributes_have_errors_of_their_own():
    """An argument of calls, an attribute of transformers', and any other name."""
    with made() as pipe:
        for name, says in (
            ("batch_size", "it is an argument of vitriton.pipeline and of a call"),
            ("pool", "it is an argument of vitriton.pipeline and of a call"),
            ("device", "on a server; see the attribute model"),
            ("nonsense", "'ImageFeatureExtractionPipeline' object has no attribute 'nonsense'"),
        ):
            with pytest.raises(AttributeError, match=re.escape(says)):
                getattr(pipe, name)


def test_a_closed_pipeline_says_so():
    """In its own name, for calls of every kind."""
    pipe = made()
    pipe.close()
    for call in (lambda: pipe(b"image"), lambda: pipe([b"image"], timeout=3.0), lambda: pipe(iter([b"image"]))):
        with pytest.raises(ClientClosed, match="this pipeline is closed; make a new one"):
            call()


def test_what_cannot_travel_is_named():
    """A transport; a pickle and a copy name the object."""
    with made() as pipe:
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"this pipeline cannot be pickled or copied: it has a transport"):
                copied(pipe)
    with pytest.raises(ClientClosed, match="this pipeline is closed"):
        pickle.dumps(pipe)


@pytest.mark.parametrize("device", [None, -1, 0, np.int64(1), "cpu", "cuda", "cuda:1", "mps", "npu:0"])
def test_devices_that_transformers_takes(device):
    """They have no effect."""
    made(device=device).close()


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (
            {"device": "bogus"},
            ValueError,
            "device is 'bogus', which is no device; give the number of a GPU, -1 for the",
        ),
        (
            {"device": "gpu"},
            ValueError,
            "a name such as 'cuda:0' (of cpu, cuda, mps, xpu, hpu, npu, mlu, musa), or a t",
        ),
        ({"device": "cuda:-1"}, ValueError, "device is 'cuda:-1', which is no device"),
        ({"device": True}, TypeError, "device is True, which is no device"),
        ({"device": [0]}, TypeError, "device is [0], which is no device"),
        ({"device_map": "bogus"}, ValueError, "device_map is 'bogus', which is no device; give 'auto', 'balanced', "),
        ({"device_map": -1}, ValueError, "device_map is -1, which is no device"),
        ({"model_kwargs": {"device_map": 0.5}}, TypeError, "model_kwargs['device_map'] is 0.5, which is no device"),
    ],
)
def test_devices_that_transformers_refuses(arguments, kind, says):
    """The error names the argument, its value and what is taken."""
    with pytest.raises(kind, match=re.escape(says)):
        made(**arguments)


@pytest.mark.parametrize("device_map", ["auto", "sequential", "cuda:0", 1, {"": 0}, {"encoder": "cpu"}])
def test_plans_that_transformers_takes(device_map):
    """They have no effect."""
    made(device_map=device_map, model_kwargs={"device_map": device_map}).close()


def _call(pipe, answers):
    try:
        pipe(b"image")
    except ClientClosed as exc:
        answers.send(str(exc))


@pytest.mark.usefixtures("subprocesses")
def test_after_a_fork():
    """A data loader's worker gets an error that speaks of the pipeline."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    with made() as pipe:
        process = context.Process(target=_call, args=(pipe, send))
        process.start()
        assert re.search("this pipeline was made in process .* Make the pipeline after the fork", receive.recv())
        process.join()
