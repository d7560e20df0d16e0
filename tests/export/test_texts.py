"""Models that take texts: what is read of a checkpoint, what is exported, and what is refused."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file
from support import hub, text_architectures, trained_minilm, two_towers
from torch import nn
from transformers import AutoTokenizer, CLIPTextModelWithProjection
from vitriton_export import ExportError, ExportOptions, VerifyOptions, export_model, verify_model
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES
from vitriton_export._errors import OptionError
from vitriton_export._export import prepare
from vitriton_export._graph.precision import adds_products_exactly
from vitriton_export._graph.text_encoder import pool
from vitriton_export._parity.texts import TextRunner, corpus

QUICK = ("bert",)  # the others are long
# encoders whose attention is one node with a mask; the others have causal masks, biases, or attention of their own
FUSED = {
    "albert",
    "bart",
    "bert",
    "bert-generation",
    "camembert",
    "data2vec-text",
    "distilbert",
    "electra",
    "ernie",
    "gte",
    "mobilebert",
    "modernbert",
    "roberta",
    "roberta-prelayernorm",
    "siglip2_text_model",
    "siglip_text_model",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
TEXTS = [b"a man rides a bicycle", b"the quick brown fox jumps over the lazy dog, and the dog sleeps", b""]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return text_architectures.write("bert", tmp_path_factory.mktemp("texts") / "bert")


def export(checkpoint, tmp_path, **options):
    return export_model(ExportOptions(model=str(checkpoint), repository=tmp_path / "r", name="m", **options))


def planned(checkpoint, tmp_path, **options):
    """The plan of such an export, which is not carried out."""
    (plan,) = prepare(
        ExportOptions(model=str(checkpoint), repository=tmp_path / "r", name="m", **options), contextlib.nullcontext
    )
    return plan


def ops(tmp_path):
    """The nodes of the graph for whole texts, counted by kind."""
    graph = ir.load(tmp_path / "r" / "m_text_unpooled_encoder" / "1" / "model.onnx").graph
    return Counter(node.op_type for node in graph)


def as_sentence_transformers(checkpoint, folder, modules, **settings):
    """Writes sentence-transformers' files beside a copy of a checkpoint: (class, folder, its config.json)."""
    shutil.copytree(checkpoint, folder)
    listed = []
    for number, (kind, path, config) in enumerate(modules):
        listed.append(
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        )
        (folder / path).mkdir(exist_ok=True)
        if config is not None:
            (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(listed))
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


TRANSFORMER = ("Transformer", "", None)
MEAN = ("Pooling", "1_Pooling", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
NORMALIZE = ("Normalize", "2_Normalize", None)


@pytest.mark.parametrize(
    "model_type",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in sorted(TEXT_FAMILIES)],
)
def test_a_small_model_of_each_architecture(model_type, tmp_path):
    """Token ids are identical, and outputs within the gate, on all texts of the corpus."""
    result = export(text_architectures.write(model_type, tmp_path / model_type), tmp_path)
    assert {stage.stage: stage.images for stage in result.parity}["input_ids"] == len(corpus())
    assert all(stage.passed for stage in result.parity)
    assert result.deployment.pooling == TEXT_FAMILIES[model_type].pooling
    assert (ops(tmp_path)["MultiHeadAttention"] > 0) == (model_type in FUSED)


@pytest.mark.parametrize(
    "precision",
    ["int8", pytest.param("int8-fast", marks=pytest.mark.long), pytest.param("fp16", marks=pytest.mark.long)],
)
def test_precisions(bert, tmp_path, precision):
    """The same gates as for images; int8 does not depend on the other texts of a batch."""
    result = export(bert, tmp_path, precision=precision)
    stages = {stage.stage: stage for stage in result.parity}
    assert stages["embedding"].min_cosine >= 0.99
    if precision != "int8-fast":
        assert stages["embedding alone"].min_cosine >= 0.99999


def test_the_graph_has_no_needless_work(bert, tmp_path):
    """Two layers: six products each; no Reshape around the attention; no bias of keys and values."""
    export(bert, tmp_path)
    found = ops(tmp_path)
    assert (found["MultiHeadAttention"], found["MatMul"], found["Reshape"], found["Transpose"]) == (2, 12, 0, 0)
    # a LayerNormalization behind an Add would be fused at load, to a slower kernel
    assert found["Sum"] == found["LayerNormalization"] == 5


def test_the_files_of_sentence_transformers(bert, tmp_path):
    """Poolings in their order, a Dense layer, the length 1, prompts, the longest text, and lower case."""
    both = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    dense = {"in_features": 64, "out_features": 8, "bias": True}
    folder = as_sentence_transformers(
        bert,
        tmp_path / "sentence",
        [
            TRANSFORMER,
            ("Pooling", "1_Pooling", both),
            ("Dense", "2_Dense", dense | {"activation_function": "torch.nn.modules.activation.Tanh"}),
            ("Normalize", "3_Normalize", None),
        ],
        sentence_bert_config={"max_seq_length": 10, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "query: ", "none": ""}, "default_prompt_name": "query"},
    )
    layer = nn.Linear(64, 8)
    save_file(
        {f"linear.{name}": tensor for name, tensor in layer.state_dict().items()}, folder / "2_Dense/model.safetensors"
    )
    result = export(folder, tmp_path)
    deployment = result.deployment
    assert (deployment.pooling, deployment.l2_normalize, deployment.shapes["text_pooled"]) == ("cls+max", True, (8,))
    assert (deployment.step.spec.max_length, deployment.step.prompts) == (10, {"query": "query: "})
    assert deployment.step.default_prompt == "query"
    runner = TextRunner(tmp_path / "r", "m", ["text_pooled"])
    upper, lower = runner.run([b"THE DOG SLEEPS", b"the dog sleeps"]).values["embedding"]
    np.testing.assert_array_equal(upper, lower)
    assert np.linalg.norm(upper) == pytest.approx(1)


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([TRANSFORMER], "has no Pooling"),
        ([TRANSFORMER, MEAN, ("CNN", "2_CNN", {})], "has the module CNN, which cannot be exported"),
        ([TRANSFORMER, MEAN, NORMALIZE, ("Dense", "3_Dense", {})], "has Dense after Normalize"),
        ([("Transformer", "0_Transformer", {}), MEAN], "has the transformer in the folder '0_Transformer'"),
        ([TRANSFORMER, ("Pooling", "1_Pooling", {"pooling_mode_median": True})], "has the pooling 'median'"),
        ([TRANSFORMER, ("Pooling", "1_Pooling", MEAN[2] | {"include_prompt": False})], "leaves the prompt out"),
        ([TRANSFORMER, ("Pooling", "../elsewhere", MEAN[2])], "leads out of the folder"),
    ],
    ids=["no pooling", "another module", "after the end", "a folder", "another pooling", "without prompts", "outside"],
)
def test_what_sentence_transformers_files_may_not_say(bert, tmp_path, modules, reason):
    """It is refused before the weights are read, and the repository stays as it was."""
    folder = as_sentence_transformers(bert, tmp_path / "sentence", modules)
    with pytest.raises(ExportError, match=reason):
        export(folder, tmp_path)
    assert not list((tmp_path / "r").glob("*"))


def test_dimensions(bert, tmp_path):
    """The first dimensions, normalized again, and another space."""
    export(bert, tmp_path / "a")
    short = export(bert, tmp_path / "b", l2_normalize=True, dimensions=8)
    assert short.deployment.fingerprint != planned(bert, tmp_path, l2_normalize=True).deployment.fingerprint
    rows = [TextRunner(tmp_path / name / "r", "m", ["text_pooled"]).run(TEXTS[:2]).values["embedding"] for name in "ab"]
    for long, cut in zip(*rows, strict=True):
        np.testing.assert_allclose(cut, long[:8] / np.linalg.norm(long[:8]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_size": 224}, "image_size is for models that take images"),
        ({"max_length": 1000}, "max_length is 1000, and the model has 80 positions"),
        ({"max_length": 2}, "max_length is 2, and the tokenizer adds 2 special tokens to each text, .* give 3 or more"),
        ({"dimensions": 33}, "dimensions is 33, and embeddings have 32"),
        ({"pooling": "projection"}, "has no projection to compare with text; use --pooling auto, pooler"),
    ],
    ids=["images", "positions", "special_tokens", "dimensions", "projection"],
)
def test_options_that_do_not_fit(bert, tmp_path, options, reason):
    with pytest.raises((OptionError, ExportError), match=reason):
        export(bert, tmp_path, **options)


def test_options_for_texts_are_refused_for_images(tiny_vit_checkpoint, tmp_path):
    with pytest.raises(OptionError, match="max_length is for models that take texts"):
        export(tiny_vit_checkpoint, tmp_path, max_length=8)
    with pytest.raises(ExportError, match="takes images, and last pools the tokens of texts"):
        export(tiny_vit_checkpoint, tmp_path, pooling="last")


def test_the_poolings():
    """As sentence-transformers computes them; padding has no part in them."""
    tokens = torch.tensor([[[1.0, 8.0], [3.0, 2.0], [5.0, -1.0], [99.0, 99.0]]])
    mask = torch.tensor([[1, 1, 1, 0]])
    outputs = {"last_hidden_state": tokens}
    named = type("Outputs", (), outputs)
    expected = {
        "cls": [1, 8],
        "last": [5, -1],
        "max": [5, 8],
        "mean": [3, 3],
        "mean-sqrt-len": [9 / 3**0.5, 9 / 3**0.5],
        "weighted-mean": [(1 + 6 + 15) / 6, (8 + 4 - 3) / 6],
    }
    for pooling, vector in expected.items():
        assert pool(named, mask, [pooling])[0].tolist() == pytest.approx(vector), pooling
    assert pool(named, mask, ["cls", "max"]).tolist() == [[1, 8, 5, 8]]


def test_a_text_tower_by_itself(tmp_path):
    """Its embedding is the projected vector; a checkpoint without the projection is refused."""
    folder = text_architectures.write("clip_text_model", tmp_path / "clip")
    export(folder, tmp_path, outputs="pooled")
    (vector,) = TextRunner(tmp_path / "r", "m", ["text_pooled"]).run(TEXTS[:1]).values["embedding"]
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0].decode(), return_tensors="pt")["input_ids"]
    model = CLIPTextModelWithProjection.from_pretrained(folder)
    with torch.no_grad():
        np.testing.assert_allclose(vector, model(ids).text_embeds[0].numpy(), atol=1e-4)
    model.text_model.save_pretrained(folder)
    with pytest.raises(ExportError, match=r"lacks 1 weight of CLIPTextModelWithProjection.*: text_projection\.weight"):
        export(folder, tmp_path)


def test_a_text_is_cut_and_refused(bert, tmp_path):
    """The step tells how many tokens a whole text has; what it cannot use, it names."""
    export(bert, tmp_path, max_length=6, max_text_bytes=60)
    result = TextRunner(tmp_path / "r", "m", ["text_unpooled"]).run([TEXTS[0], b"x" * 61, b"ab\xff", b""])
    assert result.refused == {1: "61 bytes are over the limit of 60", 2: "is not UTF-8 (byte 0xff at position 2)"}
    assert [len(rows) for rows in result.values["last_hidden_state"]] == [6, 2]


def test_verify(bert, tmp_path):
    """On the built-in texts, and on the lines of a file; a file is refused for a model of images and vice versa."""
    export(bert, tmp_path)
    report = verify_model(VerifyOptions(repository=tmp_path / "r"))
    assert (report.passed, report.images) == (True, len(corpus()))
    (tmp_path / "texts.txt").write_bytes(b"one line\r\n\none \r more\nno UTF-8: \xff\n")
    counted = []
    report = verify_model(
        VerifyOptions(repository=tmp_path / "r", texts=tmp_path / "texts.txt"),
        progress=lambda total, noun: contextlib.nullcontext(lambda **_: counted.append((total, noun))),
    )
    assert (report.passed, report.compared) == (True, 3)  # an empty line is a text, as for `vitriton embed`
    assert [(entry.image, entry.reason[:12]) for entry in report.unusable] == [("line 4", "is not UTF-8")]
    assert counted == [(4, "text")] * 4
    with pytest.raises(OptionError, match="images are given, and m takes texts"):
        verify_model(VerifyOptions(repository=tmp_path / "r", images="examples/photos"))


def test_a_model_of_another_kind_is_no_reference(bert, tmp_path):
    """It is said what it is, and nothing of options that a verification does not have."""
    export(bert, tmp_path, outputs="pooled")
    clip = two_towers.write("clip", tmp_path / "clip")
    with pytest.raises(ExportError) as caught:
        verify_model(VerifyOptions(repository=tmp_path / "r", reference=str(clip)))
    assert str(caught.value) == (
        f"{clip} is not the checkpoint of m, which was exported from bert: pooling is mean, and the images and texts "
        "of clip are compared in its projection; name the right one with --reference and --revision"
    )


def test_an_export_again(bert, tmp_path):
    """Two runs write the same space; another pooling is another one, and refused under the same name."""
    first, second = export(bert, tmp_path), export(bert, tmp_path)
    assert first.deployment.fingerprint == second.deployment.fingerprint
    with pytest.raises(ExportError, match="already serves another embedding space as m"):
        export(bert, tmp_path, pooling="cls")


def test_another_pooling_than_that_of_sentence_transformers_is_noted(bert, tmp_path):
    folder = as_sentence_transformers(bert, tmp_path / "sentence", [TRANSFORMER, MEAN])
    notes = planned(folder, tmp_path, pooling="cls", outputs="pooled").notes
    assert list(notes) == ["pooling is cls, in place of mean, which its sentence-transformers files say"]


@pytest.mark.long
@pytest.mark.usefixtures("subprocesses")
def test_a_folder_of_sentence_transformers_on_the_hub(bert, tmp_path):
    """Its modules' folders are downloaded, too, and nothing else of it."""
    folder = as_sentence_transformers(bert, tmp_path / "sentence", [TRANSFORMER, MEAN, NORMALIZE])
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"another form")
    with hub.serve(hub.Hub({"we/sentences": folder})) as server:
        command = [Path(sys.executable).with_name("vitriton"), "export", "we/sentences", "--repository", tmp_path / "r"]
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not [path for path in server.requests if path.endswith("model.onnx")]
    manifest = json.loads((tmp_path / "r/sentences_text_pooled/1/manifest.json").read_text())
    assert (manifest["pooling"], manifest["l2_normalize"], manifest["source"]["revision"]) == ("mean", True, hub.COMMIT)


@pytest.mark.long
def test_trained_weights(tmp_path):
    """all-MiniLM-L6-v2: what its files say is what is exported."""
    result = export(trained_minilm.checkpoint(), tmp_path, outputs="pooled")
    deployment = result.deployment
    assert (deployment.pooling, deployment.l2_normalize, deployment.step.spec.max_length) == ("mean", True, 256)
    assert result.notes == ("pooling is mean, as its sentence-transformers files say",)
    assert next(stage for stage in result.parity if stage.stage == "embedding").max_abs_error < 1e-5


def test_int8_of_trained_weights(tmp_path):
    """all-MiniLM-L6-v2 passes the usual gate: the channels of its largest values are smoothed."""
    if not adds_products_exactly():
        pytest.skip("products saturate on this CPU")
    result = export(trained_minilm.checkpoint(), tmp_path, outputs="pooled", precision="int8")
    stages = {stage.stage: stage for stage in result.parity}
    assert stages["embedding"].min_cosine >= 0.995
    assert stages["embedding alone"].min_cosine >= 0.99999
