"""vitriton.pipeline and transformers.pipeline on texts, called alike on one checkpoint: equal nesting and numbers."""

import functools
import json
import shutil
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch
import transformers
from e2e.test_pipeline import assert_same
from support import exports, text_architectures, trained_minilm
from transformers.pipelines.pt_utils import KeyDataset
from vitriton import InvalidText, PipelineMismatch, pipeline
from vitriton_server import TritonServer

TASK = "feature-extraction"
# Its models take minutes; tests/client/test_text_pipeline.py has the calls, and test_texts.py the numbers
pytestmark = pytest.mark.long
# The samples of transformers' documentation, of the pipeline and of facebook/bart-base, and texts of other lengths
SAMPLES = ["This is a simple test.", "Transformers is an awesome library!"]
TEXTS = [*SAMPLES, "", "The cat sleeps. " * 2, "Straße 日本 \N{GRINNING FACE}"]


class Rows(torch.utils.data.Dataset):
    """A data set of dicts, as `datasets` has them."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        return {"text": TEXTS[index], "label": index}


INPUTS = {
    "single": lambda: TEXTS[0],
    "list": lambda: TEXTS,
    "list of one": lambda: TEXTS[:1],
    "generator": lambda: (text for text in TEXTS),
    "data set": lambda: KeyDataset(Rows(), "text"),
}


def with_default_prompt(checkpoint, folder):
    """Copies a checkpoint as a folder of sentence-transformers, with a prompt before each text by default."""
    shutil.copytree(checkpoint, folder)
    modules = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(modules.items())
    ]
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    for name, content in {
        "modules": listed,
        "1_Pooling/config": pooling,
        "config_sentence_transformers": prompts,
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints by the name of their export."""
    folder = tmp_path_factory.mktemp("checkpoints")
    bert = text_architectures.write("bert", folder / "bert")
    return {
        "tiny-bart": text_architectures.write("bart", folder / "tiny-bart"),
        "minilm": trained_minilm.checkpoint(),
        "prompted": with_default_prompt(bert, folder / "prompted"),
    }


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory, checkpoints):
    """A real Triton with them, and an export of vectors alone."""
    repository = tmp_path_factory.mktemp("served") / "repository"
    exports.export_all(checkpoints, repository)
    exports.export(checkpoints["prompted"], repository, name="vectors", outputs="pooled", pooling="pooler")
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(scope="module")
def both(server, checkpoints):
    """A function: the reference and ours for a served model, made with the same arguments."""

    @functools.cache
    def load(name):
        checkpoint = checkpoints[name]
        model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
        return model, transformers.AutoTokenizer.from_pretrained(checkpoint)

    @contextmanager
    def make(name, **arguments):
        model, tokenizer = load(name)
        given = deepcopy(arguments)  # the reference writes into tokenize_kwargs
        reference = transformers.pipeline(TASK, model=model, tokenizer=tokenizer, **given)
        with pipeline(TASK, model=name, dtype=torch.float32, url=server.grpc_address, **arguments) as ours:
            yield reference, ours

    return make


@pytest.mark.parametrize("return_tensors", [None, True])
@pytest.mark.parametrize("model", ["tiny-bart", "minilm"])
def test_every_kind_of_call(both, model, return_tensors):
    """Each kind of input gives the same nesting and numbers."""
    with both(model) as (reference, ours):
        for name, inputs in INPUTS.items():
            try:
                said = {"return_tensors": return_tensors}
                assert_same(ours(inputs(), **said), reference(inputs(), **said))
            except AssertionError as error:
                raise AssertionError(f"called with a {name}") from error


def test_the_samples_of_transformers(both):
    """Of the class's documentation, and of the card of facebook/bart-base."""
    with both("minilm") as (reference, ours):
        tensor = ours(SAMPLES[0], return_tensors=True)
        assert tensor.shape == (1, 8, 384)
        assert_same(tensor, reference(SAMPLES[0], return_tensors=True))
    with both("tiny-bart", framework="pt") as (reference, ours):
        mean, expected = (pipe(SAMPLES[1], return_tensors="pt")[0].numpy().mean(axis=0) for pipe in (ours, reference))
        np.testing.assert_allclose(mean, expected, atol=1e-4)


def test_an_answer_does_not_depend_on_its_neighbors(both):
    """With batch_size, the reference returns the padding as well; ours is what the text has alone."""
    with both("minilm", batch_size=4) as (reference, ours):
        padded, alone = reference(TEXTS), reference(TEXTS, batch_size=1)
        assert np.shape(padded[0]) != np.shape(alone[0])
        assert_same(ours(TEXTS), alone)


@pytest.mark.parametrize("model", ["tiny-bart", "minilm"])
def test_truncation(both, model):
    """Without it, a text that the model cannot take is an error in both."""
    long = "The cat sleeps on the sofa. " * 200
    with both(model) as (reference, ours):
        for called, error in ((reference, (IndexError, RuntimeError)), (ours, InvalidText)):
            with pytest.raises(error):
                called(long)
        size = ours.model.texts.max_length
        for said in ({}, {"truncation": True}):
            assert_same(
                ours(long, **said, tokenize_kwargs={"max_length": size}),
                reference(long, **said, tokenize_kwargs={"max_length": size}),
            )
        assert np.shape(ours([SAMPLES[0], long], truncation=True)[1])[:2] == (1, size)
        if model == "tiny-bart":  # sentence-transformers cuts earlier than the tokenizer of the same folder
            assert_same(ours(long, truncation=True), reference(long, truncation=True))
    with both(model, truncation=True, tokenize_kwargs={"max_length": size}) as (reference, ours):
        assert_same(ours([long]), reference([long]))


def test_there_is_no_prompt(both):
    """Also where the model has one by default."""
    with both("prompted") as (reference, ours):
        assert ours.model.texts.default_prompt == "query"
        assert_same(ours(TEXTS), reference(TEXTS))
        assert_same(ours(TEXTS[0]), reference(TEXTS[0]))


def test_an_export_with_vectors_alone(server):
    """Its tokens are an error, and its vectors come with pool=True."""
    with pipeline(TASK, model="vectors", url=server.grpc_address) as ours:
        with pytest.raises(PipelineMismatch, match="has only the pooled output; pass pool=True, or export the model"):
            ours(TEXTS)
        assert np.shape(ours(TEXTS, pool=True)) == (len(TEXTS), 1, 32)
    with pytest.raises(PipelineMismatch, match="embeds texts; give the task 'feature-extraction'"):
        pipeline("image-feature-extraction", model="vectors", url=server.grpc_address)


@pytest.mark.long
def test_the_size_of_bart_base(subprocesses, tmp_path):
    """The configuration of facebook/bart-base, with random weights."""
    tokenizer = text_architectures.tokenizer(TEXTS)
    tokenizer.model_max_length = 1024
    config = transformers.BartConfig(
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
    )
    torch.manual_seed(0)
    model = transformers.BartModel(config).eval()
    checkpoint = tmp_path / "bart-base"
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    reference = transformers.pipeline(TASK, model=model, tokenizer=tokenizer)
    with (
        TritonServer(exports.export(checkpoint, tmp_path / "repository", outputs="unpooled")) as running,
        pipeline(TASK, model="bart-base", url=running.grpc_address) as ours,
    ):
        for inputs in (*SAMPLES, TEXTS):
            assert_same(ours(inputs), reference(inputs))
        assert_same(ours(SAMPLES[1], return_tensors="pt"), reference(SAMPLES[1], return_tensors="pt"))
        long = "The cat sleeps on the sofa. " * 500
        assert_same(ours(long, truncation=True), reference(long, truncation=True))
