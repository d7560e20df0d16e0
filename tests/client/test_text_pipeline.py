"""vitriton.pipeline("feature-extraction") on a fake server; its numbers against transformers' are in tests/e2e."""

import inspect
import logging
import re
from collections import UserList

import numpy as np
import pytest
from vitriton import ContractMismatch, InvalidText, ModelNotFound, PipelineMismatch, pipeline
from vitriton._pipeline.arguments import PipelineArguments
from vitriton.testing import CallError, Code, FakeTransport, ModelStatus

TASK = "feature-extraction"
MAX_LENGTH = 6
PARAMETERS = {"model": "org/words", "precision": "fp32", "pooling": "pooler", "l2_normalize": "false"}
TEXTS = ["one", "one two three", "four five"]
LONG = "word " * (MAX_LENGTH + 1)
PROMPTS = {"query": "query: "}


class Server(FakeTransport):
    """Has some outputs of exports, whose tokens are words; each name may have several."""

    def __init__(self, models=("words_text_pooled", "words_text_unpooled"), **parameters):
        super().__init__(max_length=MAX_LENGTH, prompts=PROMPTS, parameters=PARAMETERS | parameters)
        self._models = models

    def model_config(self, model, timeout_s):
        if model not in self._models:
            raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
        return super().model_config(model, timeout_s)

    def repository_index(self, timeout_s):
        return [ModelStatus(name=model, ready=True, state="READY") for model in self._models]


def made(task=TASK, *, server=None, **arguments):
    """A pipeline on the fake server."""
    return pipeline(task, **{"model": "words", "client_options": {"transport": server or Server()}} | arguments)


class Indexed:
    """A data set without __iter__."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        return TEXTS[index]


def test_the_arguments_have_a_type():
    """Type checkers know all arguments of the function, and no others."""
    parameters = list(inspect.signature(pipeline).parameters)
    assert parameters[:2] == ["task", "model"]
    assert sorted(PipelineArguments.__annotations__) == sorted(parameters[2:])


def test_one_text():
    """Nested lists with the batch's dimension, and as many rows as the text has tokens."""
    with made() as pipe:
        answer = pipe("one two three")
        assert np.shape(answer) == (1, 3, 8)
        assert isinstance(answer[0][0][0], float)
        assert pipe.predict("one") == pipe.transform("one") == pipe("one")
        assert (pipe.task, type(pipe).__name__) == (TASK, "FeatureExtractionPipeline")


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("inputs", [list, tuple])
def test_lists(inputs, batch_size):
    """A list of answers, each without padding and as for the text alone."""
    with made() as pipe:
        answers = pipe(inputs(TEXTS), batch_size=batch_size)
        assert isinstance(answers, list)
        assert [np.shape(answer) for answer in answers] == [(1, 1, 8), (1, 3, 8), (1, 2, 8)]
        assert answers == [pipe(text) for text in TEXTS]
        assert pipe([]) == []


@pytest.mark.parametrize(
    "inputs", [iter, UserList, lambda texts: Indexed(), np.array, lambda texts: (t for t in texts)]
)
def test_generators_and_data_sets(inputs):
    """They are streamed."""
    with made() as pipe:
        answers = pipe(inputs(TEXTS))
        assert iter(answers) is answers
        assert list(answers) == pipe(TEXTS)
        assert pipe(text for text in []) == []


@pytest.mark.parametrize("inputs", [None, 3, b"bytes", bytearray(b"bytes"), {"text": "one"}, {"one", "two"}])
def test_what_is_no_texts(inputs):
    with made() as pipe, pytest.raises(TypeError, match=r"inputs has the type .* give a"):
        pipe(inputs)


@pytest.mark.parametrize("bad", [None, 7, ["one", "two"], {"text": "one"}, "\ud800"])
def test_a_bad_text_costs_its_own_answer(bad):
    """It is named by its index; a list ends with it, and an iterator goes on."""
    with made() as pipe:
        with pytest.raises(InvalidText, match="text 1: "):
            pipe(["one", bad, "two"])
        answers = pipe(text for text in ["one", bad, "two"])
        first = next(answers)
        with pytest.raises(InvalidText, match="text 1: ") as caught:
            next(answers)
        assert caught.value.index == 1
        assert [first, *answers] == pipe(["one", "two"])


def test_a_text_with_too_many_tokens():
    """It is an error that says what to do, unless truncation says that it is cut."""
    with made() as pipe:
        for inputs, index in ((LONG, 0), (["one", LONG], 1)):
            with pytest.raises(InvalidText, match=r"has 7 tokens, and model words takes 6; pass truncation=True"):
                pipe(inputs)
            with pytest.raises(InvalidText) as caught:
                pipe(inputs)
            assert (caught.value.index, caught.value.code, caught.value.model) == (index, "too_large", "words")
            assert "word word" not in str(caught.value)
        answers = pipe(text for text in ["one", LONG, "two"])
        next(answers)
        with pytest.raises(InvalidText, match="text 1: "):
            next(answers)
        assert np.shape(next(answers)) == (1, 1, 8)


@pytest.mark.parametrize(
    "given",
    [
        {"truncation": True},
        {"truncation": "longest_first"},
        {"truncation": "only_first"},
        {"tokenize_kwargs": {"truncation": True}},
        {"tokenize_kwargs": {"max_length": MAX_LENGTH}},
        {"truncation": True, "tokenize_kwargs": {"max_length": MAX_LENGTH, "padding": True}},
    ],
)
def test_truncation(caplog, given):
    """In a call and once for all; the log of a pipeline says once at which length, as transformers may have another."""
    with made() as pipe:
        assert np.shape(pipe(LONG, **given)) == (1, MAX_LENGTH, 8)
        with pytest.raises(InvalidText):
            pipe(LONG)
    with made(**given) as pipe:
        assert np.shape(pipe([LONG])) == (1, 1, MAX_LENGTH, 8)
        assert np.shape(next(pipe(iter([LONG])))) == (1, MAX_LENGTH, 8)
        for whole in (False, "do_not_truncate"):
            with pytest.raises(InvalidText):
                pipe(LONG, truncation=whole)
    said = f"texts are cut at {MAX_LENGTH} tokens, the length of the export of model words"
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [said, said]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_special_tokens": True},
        {"padding": True},
        {"padding": "longest"},
        {"padding": False, "max_length": None},
        {"return_attention_mask": True, "stride": 0, "verbose": False},
    ],
)
def test_settings_that_change_nothing(settings):
    with made(tokenize_kwargs=settings) as pipe:
        assert pipe("one two", tokenize_kwargs=settings) == pipe("one two")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_length": 4}, r"'max_length'\] is 4, and model words .* cuts texts at 6 tokens; .*--max-length 4"),
        ({"max_length": 99}, "is 99, and model words on the server at grpc://fake:8001 cuts texts at 6 tokens"),
        ({"padding": "max_length"}, r"'padding'\] is 'max_length', and .* each text alone, as it was exported; leave"),
        ({"add_special_tokens": False}, r"'add_special_tokens'\] is False"),
        ({"pad_to_multiple_of": 8}, r"'pad_to_multiple_of'\] is 8"),
        ({"return_tensors": "pt"}, r"'return_tensors'\] is 'pt'"),
    ],
)
def test_settings_that_the_model_does_not_have(settings, says):
    """For all calls and for one."""
    with pytest.raises(PipelineMismatch, match=says):
        made(tokenize_kwargs=settings)
    with made() as pipe, pytest.raises(PipelineMismatch, match=says):
        pipe("one", tokenize_kwargs=settings)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"truncation": "long"}, ValueError, "truncation is 'long'; it must be one of True, 'longest_first'"),
        ({"truncation": 1}, ValueError, "truncation is 1"),
        ({"truncation": "only_second"}, ValueError, "truncation is 'only_second'"),
        ({"truncation": True, "tokenize_kwargs": {"truncation": True}}, ValueError, "truncation is given twice"),
        ({"pool": 1}, TypeError, "pool is 1"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"return_tensors": "np"}, ValueError, "return_tensors is 'np'"),
    ],
)
def test_wrong_use(given, error, says):
    with pytest.raises(error, match=says):
        made(**given)
    with made() as pipe, pytest.raises(error, match=says):
        pipe("one", **given)


def test_there_is_no_prompt():
    """The reference puts none before a text, so the model's default prompt is left out."""
    server = Server(default_prompt="query")
    with made(server=server) as pipe:
        pipe("one")
        pipe(["two"])
        list(pipe(iter(["three"])))
        pipe("four", pool=True)
    assert [bytes(text).decode() for request in server.requests for text in request.images] == [
        "one",
        "two",
        "three",
        "four",
    ]


def test_pool():
    """As for images: the model's pooler, or with the caller's consent what the server pools."""
    with made() as pipe:
        assert np.shape(pipe("one", pool=True)) == (1, 8)
        assert np.shape(pipe(TEXTS, pool=True)) == (3, 1, 8)
    mean = Server(pooling="mean", l2_normalize="true")
    with made(server=mean) as pipe:
        says = "pools by mean and scales to length 1; .*allow_served_pooling=True, or call vitriton.Client.embed_texts"
        with pytest.raises(PipelineMismatch, match=says):
            pipe("one", pool=True)
    with made(server=mean, pool=True, allow_served_pooling=True) as pipe:
        assert np.shape(pipe("one")) == (1, 8)


def test_exports_with_one_output(caplog):
    """The error says what to pass, or how to export."""
    with made(server=Server(["words_text_pooled"])) as pipe:
        assert "pass pool=True, or export the model with --outputs both" in caplog.text
        with pytest.raises(PipelineMismatch, match="has only the pooled output; pass pool=True, or export"):
            pipe("one")
        assert np.shape(pipe("one", pool=True)) == (1, 8)
    caplog.clear()
    caplog.set_level(logging.INFO)
    tokens = Server(["words_text_unpooled"])
    with made(server=tokens) as pipe:
        assert np.shape(pipe("one")) == (1, 1, 8)
        with pytest.raises(PipelineMismatch, match="has only the unpooled output; pass pool=False"):
            pipe("one", pool=True)
    assert not caplog.records  # also not that a server is down


@pytest.mark.parametrize(
    ("task", "models", "says"),
    [
        (TASK, ["words_pooled", "words_unpooled"], "embeds images; give the task 'image-feature-extraction'"),
        ("image-feature-extraction", ["words_text_unpooled"], "embeds texts; give the task 'feature-extraction'"),
    ],
)
def test_the_other_task(task, models, says):
    """By the name of the export, and by the checkpoint's."""
    for model in ("words", "org/words"):
        with pytest.raises(PipelineMismatch, match=f"task is '{task}', and model words .* {says}"):
            made(task, server=Server(models), model=model)


def test_a_checkpoint_that_was_exported_for_both_tasks():
    """The export that does the task is found; without a task, the model says it."""
    models = ["photos_pooled", "photos_unpooled", "words_text_unpooled"]
    for task, name in (("image-feature-extraction", "photos"), (TASK, "words")):
        with made(task, server=Server(models), model="org/words") as pipe:
            assert (pipe.model.name, pipe.task) == (name, task)
        with made(None, server=Server(models), model=name) as pipe:
            assert pipe.task == task
    with pytest.raises(ContractMismatch, match=r"2 exports of it: photos .*, words"):
        made(None, server=Server(models), model="org/words")


def test_the_default_model():
    with pytest.raises(ModelNotFound, match="distilbert/distilbert-base-cased"):
        made(model=None)


def test_the_tokenizer_is_the_export_s():
    """Its id is accepted; an object cannot be compared."""
    for given in ("org/words", "words", None):
        made(tokenizer=given).close()
    for given, says in (("gpt2", "tokenizer is 'gpt2'"), (object(), "tokenizer has the type object")):
        with pytest.raises(PipelineMismatch, match=f"{says}, and .* with that of org/words; leave out tokenizer"):
            made(tokenizer=given)


def test_what_concerns_images_has_no_effect(caplog):
    """As in transformers; the log names it."""
    caplog.set_level(logging.INFO, "vitriton")
    made(image_processor=3, timeout=5.0, image_processor_kwargs={"size": 3}, device=0).close()
    (record,) = caplog.records
    assert record.getMessage().endswith(": image_processor, image_processor_kwargs, timeout, device")


def test_attributes_have_errors_of_their_own():
    with made() as pipe:
        for name, says in (
            ("truncation", "it is an argument of vitriton.pipeline and of a call"),
            ("tokenizer", "on a server; see the attribute model"),
            ("nonsense", "'FeatureExtractionPipeline' object has no attribute 'nonsense'"),
        ):
            with pytest.raises(AttributeError, match=re.escape(says)):
                getattr(pipe, name)
    with made() as pipe, pytest.raises(TypeError, match="'max_length'; it takes inputs, num_workers"):
        pipe("one", max_length=3)
