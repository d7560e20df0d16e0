"""What is decided before any work is done: options, source, architecture, pooling, fingerprint."""

import dataclasses
import importlib.util
from pathlib import Path, PurePath
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import ViTConfig
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES
from vitriton.preprocessing import Limits
from vitriton_export import ExportError, ExportOptions
from vitriton_export import _towers as towers
from vitriton_export._checkpoint.architectures import FAMILIES
from vitriton_export._checkpoint.checkpoint import load, resolve_pooling
from vitriton_export._checkpoint.config import check_files, load_config
from vitriton_export._checkpoint.families import Family, lacking
from vitriton_export._checkpoint.source import CONFIGS, CheckpointSource, fetch_weights, find
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES
from vitriton_export._processors.processor import Normalization
from vitriton_export._repository.fingerprint import ExportedSpace, architecture, weights_sha256
from vitriton_export._towers import images
from vitriton_export.placeholder import default_deployment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "name is 'a/b', which Triton cannot take"),
        ({"name": ""}, "name is '', which Triton cannot take"),
        ({"name": ".hidden"}, "cannot take; use letters"),
        ({"model": "a b"}, "is a b, which gives the name 'a b', which Triton cannot take; choose --name, of letters"),
        ({"name": "x" * 129}, "at most 128"),
        ({"name": "m_pooled"}, "name is 'm_pooled', which ends as the models inside an export do (pooled)"),
        ({"name": "m_preprocess"}, "would be taken for one of them; use --name m"),
        ({"name": "a_b_unpooled_encoder"}, "would be taken for one of them; use --name a_b"),
        (
            {"model": "me/vision_encoder"},
            "model is me/vision_encoder, which gives the name 'vision_encoder', which ends",
        ),
        ({"model": "/some/wörld"}, "model is /some/wörld, which gives the name 'wörld', which Triton cannot take"),
        (
            {"pooling": "sum"},
            "pooling is 'sum'; choose one of auto, pooler, cls, mean, projection, max, last, weighted-mean",
        ),
        ({"image_size": 0}, "image_size is 0; it must be from 1 to 4096"),
        ({"image_processor_kwargs": "{"}, "image_processor_kwargs is not JSON"),
        ({"image_processor_kwargs": "[1]"}, "it must be a JSON object"),
        ({"image_size": 9, "image_processor_kwargs": {"size": 9}}, "give one of them"),
        ({"max_batch_size": 0}, "max_batch_size is 0; it must be from 1 to 1024"),
        ({"precision": "int4"}, "precision is 'int4'; choose one of fp32, fp16, int8, int8-fast"),
        ({"min_cosine": 1.5}, "min_cosine is 1.5; it must be between 0 and 1, both excluded"),
        ({"min_cosine": 1.0}, "min_cosine is 1.0; it must be between 0 and 1, both excluded"),
        ({"model": " "}, "model is empty"),
        ({"repository": ""}, "repository is empty; name a folder"),
    ],
)
def test_options_that_no_export_can_have(options, message):
    """Each is refused with the field, the value and what would do."""
    with pytest.raises(ExportError) as caught:
        ExportOptions(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("google/vit-base-patch16-224", "vit-base-patch16-224"),
        ("checkpoints/mine/", "mine"),
        ("/srv/dinov2.v1", "dinov2.v1"),
    ],
)
def test_the_name_is_the_last_part_of_the_model(model, name):
    """Without --name, hub ids and folders alike give their last part."""
    assert ExportOptions(model=model).deployed_name == name


@pytest.mark.parametrize(
    "name",
    ["model", "checkpoint-500", "Output", "final_model", "best.ckpt", "epoch_3", "checkpoints", "5dca" * 10, "tmp"],
)
def test_a_name_that_says_nothing_is_told(name, tmp_path):
    """As scripts call their folders; the folder above may be a better name."""
    (tmp_path / "flowers" / name).mkdir(parents=True)
    told = ExportOptions(model=str(tmp_path / "flowers" / name)).untold_name
    assert told == (
        f"the name of this export is {name}, as that of its folder; --name gives another, such as --name flowers"
    )
    (tmp_path / "output" / name).mkdir(parents=True)
    assert ExportOptions(model=str(tmp_path / "output" / name)).untold_name.endswith("; --name gives another")
    assert ExportOptions(model=str(tmp_path / "flowers" / name), name="model").untold_name is None


@pytest.mark.parametrize("name", ["flowers", "model-flowers", "vit-base", "outback", "bestiary", "5dca358"])
def test_a_name_that_says_something(name):
    """Nothing is told."""
    assert ExportOptions(model=name).untold_name is None


@pytest.mark.parametrize("kind", [str, Path, PurePath])
def test_a_repository_is_a_text_or_a_path(tmp_path, kind):
    """Whatever names a folder in Python names a repository."""
    assert ExportOptions(repository=kind(tmp_path / "r")).folder == tmp_path / "r"


def test_a_repository_that_cannot_be_looked_at_is_refused(tmp_path):
    """As one whose name is longer than any file's."""
    with pytest.raises(ExportError, match=r"cannot be read: File name too long; name another"):
        ExportOptions(repository=tmp_path / ("x" * 300))


def test_a_repository_that_is_a_file_is_refused(tmp_path):
    """--repository must be a folder."""
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="is a file; name a folder"):
        ExportOptions(repository=tmp_path / "file")


WITHOUT_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
VIT = '{"model_type": "vit"}'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "not a checkpoint: it has no config.json"),
        ({"config.json": VIT}, "has no preprocessor_config.json"),
        ({"config.json": VIT, "preprocessor_config.json": "{}"}, "has no weights"),
    ],
)
def test_a_folder_that_is_no_checkpoint(tmp_path, files, message):
    """The error says which file is missing."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ExportError, match=message):
        check_files(find(str(tmp_path), None), "auto")


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "a/b/c"])
def test_a_folder_that_is_not_there(model):
    """What can only be a path is not looked for on the hub."""
    with pytest.raises(ExportError, match="does not exist"):
        find(model, None)


def test_a_folder_has_no_revisions(tiny_vit_checkpoint):
    """--revision belongs to the hub."""
    with pytest.raises(ExportError, match="which has no revisions; leave it out"):
        find(str(tiny_vit_checkpoint), "main")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("not json", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "has no model_type"),
        ('{"model_type": "whisper"}', "m is of type whisper, which takes neither images nor texts"),
        ('{"model_type": "chinese_clip_text_model"}', "if it is a part of a larger model, export that one"),
        ('{"model_type": "funnel"}', "m is of type funnel, which is not among the text models that are proven"),
        (
            '{"model_type": "esm"}',
            "m is of type esm, which reads proteins and not texts; `vitriton export --list` shows",
        ),
        ('{"model_type": "videomae"}', "m is of type videomae, which takes a clip of frames instead of a single image"),
        ('{"model_type": "detr"}', "m is of type detr, a detector: its outputs describe single objects"),
        ('{"model_type": "blip-2"}', "m is of type blip-2, which needs input_ids beside the pixel values"),
        ('{"model_type": "llava"}', "m is of type llava, which takes images beside other inputs, and none alone"),
        pytest.param('{"model_type": "timm_wrapper"}', "'vitriton-export[timm]'", marks=WITHOUT_TIMM),
        pytest.param(
            '{"architecture": "a", "pretrained_cfg": {}}',
            "which needs timm and torchvision, which are",
            marks=WITHOUT_TIMM,
        ),
        pytest.param(
            '{"architecture": "a", "pretrained_cfg": null}',
            "which needs timm and torchvision, which are",
            marks=WITHOUT_TIMM,
        ),
        ('{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}', "needs code of its own"),
        ('{"model_type": "no-such-type"}', "is of type 'no-such-type', which transformers"),
    ],
)
def test_a_model_that_cannot_be_exported_is_refused_by_its_configuration(tmp_path, config, message):
    """Before any weights are read, the error names the type and the reason."""
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ExportError) as caught:
        load_config(CheckpointSource(tmp_path, "m", None))
    assert message in str(caught.value)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5"])
def test_a_model_for_texts_without_a_tokenizer_is_refused(tmp_path, model_type):
    """Transformers would make one that knows no words, and the gate compares transformers with itself then."""
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    with pytest.raises(ExportError, match=r"has no tokenizer\.json, so nothing says how its texts are tokenized"):
        towers.outline(CheckpointSource(tmp_path, "m", None), ExportOptions())


def test_the_files_of_every_tokenizer_are_downloaded():
    """Of a hub's files, those that transformers' tokenizers of the architectures for texts read."""
    names = [TOKENIZER_MAPPING_NAMES.get(model_type) for model_type in TEXT_FAMILIES]
    classes = [getattr(transformers, name) for name in names if name is not None]
    assert len(classes) > 20
    assert {file for each in classes for file in each.vocab_files_names.values()} <= set(CONFIGS)


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        ({"timm", "torchvision"}, None),
        ({"timm"}, "needs torchvision, which is not installed: "),
        ({"torchvision"}, "needs timm, which is not installed: "),
        (set(), "needs timm and torchvision, which are not installed: "),
    ],
)
def test_missing_packages_are_named_with_the_extra(installed, says, monkeypatch):
    """Timm does not start without torchvision, and transformers then asks for timm."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    text = lacking(FAMILIES["timm_wrapper"])
    assert (text is None) == (says is None)
    if says is not None:
        assert text.startswith(says)
        assert "`pip install 'vitriton-export[timm]' --extra-index-url ADDRESS`" in text


CLS, NO_CLS = Family(prefix=("cls",)), Family(prefix=())


@pytest.mark.parametrize(
    ("asked", "family", "pooler", "untrained", "result"),
    [
        ("auto", CLS, True, False, "pooler"),
        ("auto", CLS, True, True, "cls"),
        ("auto", CLS, False, False, "cls"),
        ("auto", NO_CLS, True, True, "mean"),
        ("auto", NO_CLS, False, False, "mean"),
        ("pooler", CLS, True, False, "pooler"),
        ("pooler", CLS, True, True, "is untrained: the checkpoint has no pooler.dense.weight"),
        ("pooler", CLS, False, False, "has no pooler"),
        ("cls", NO_CLS, True, False, "has no CLS token"),
        ("mean", CLS, True, False, "mean"),
    ],
)
def test_pooling_tells_the_truth(asked, family, pooler, untrained, result):
    """`auto` takes what is trained; what is asked for by name is given or refused, never replaced."""
    missing = ("pooler.dense.weight",) if untrained else ()
    checkpoint = SimpleNamespace(source=SimpleNamespace(model_id="m"), family=family, untrained_pooler=missing)
    try:
        got = resolve_pooling(asked, checkpoint, has_pooler=pooler, allow_untrained=False)
    except ExportError as exc:
        got = str(exc)
    assert result in got


def test_an_untrained_pooler_is_shipped_only_on_demand():
    """--allow-untrained-pooler overrides the refusal."""
    source = SimpleNamespace(model_id="m")
    checkpoint = SimpleNamespace(source=source, family=CLS, untrained_pooler=("pooler.dense.weight",))
    assert resolve_pooling("pooler", checkpoint, has_pooler=True, allow_untrained=True) == "pooler"


STEP = dataclasses.replace(
    default_deployment().step, normalization=Normalization(1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
)
SPACE = {
    "weights": "0" * 64,
    "config": architecture(ViTConfig(), FAMILIES["vit"], pooler=False),
    "prepared": STEP.space,
    "pooling": "cls",
    "l2_normalize": False,
    "precision": "fp32",
}


def _step(**changes):
    return {"prepared": dataclasses.replace(STEP, **changes).space}


def _spec(**changes):
    return _step(spec=dataclasses.replace(STEP.spec, **changes))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "1" * 64},
        {"config": architecture(ViTConfig(layer_norm_eps=1e-6), FAMILIES["vit"], pooler=False)},
        {"config": architecture(ViTConfig(num_attention_heads=6), FAMILIES["vit"], pooler=False)},
        _spec(height=225),
        _spec(steps=()),
        _step(normalization=Normalization(1 / 255, (0.4, 0.5, 0.5), (0.5, 0.5, 0.5))),
        {"pooling": "mean"},
        {"l2_normalize": True},
        {"precision": "fp16"},
    ],
)
def test_whatever_moves_a_vector_changes_the_fingerprint(change):
    """Two exports whose vectors differ never have one fingerprint."""
    assert ExportedSpace(**SPACE | change).fingerprint != ExportedSpace(**SPACE).fingerprint


def test_fingerprints_of_earlier_exports_stay():
    """Whoever keeps vectors keeps their fingerprint: what is computed here is what earlier versions computed."""
    assert ExportedSpace(**SPACE).fingerprint == "v1-43288f864dc0232920446f75f516dacf"


@pytest.mark.parametrize("outputs", ["unpooled", "both"])
def test_pooling_counts_only_where_there_is_an_embedding(tiny_vit_checkpoint, tmp_path, outputs):
    """Tokens are the same whatever would be made of them, and an export of tokens alone has one fingerprint."""
    checkpoint = load(fetch_weights(find(str(tiny_vit_checkpoint), None)))
    options = [
        ExportOptions(repository=tmp_path, outputs=outputs, pooling=pooling, l2_normalize=l2_normalize)
        for pooling in ("pooler", "cls", "mean")
        for l2_normalize in (False, True)
    ]
    spaces = {images.plan(each, checkpoint).deployment.fingerprint for each in options}
    assert len(spaces) == (1 if outputs == "unpooled" else 6)


def test_limits_do_not_change_the_fingerprint():
    """A limit refuses images, it does not move them."""
    limited = _spec(limits=Limits(max_pixels=9, formats=("PNG",)))
    assert ExportedSpace(**SPACE | limited).fingerprint == ExportedSpace(**SPACE).fingerprint


def test_names_and_training_do_not_change_the_fingerprint():
    """Labels, dropout, notes and where a configuration comes from move no vector; nor a pooler that is not used."""
    notes = {
        "id2label": {0: "cat"},
        "hidden_dropout_prob": 0.5,
        "architectures": ["X"],
        "note": "mine",
        "pooler_act": "relu",
    }
    other = architecture(ViTConfig(**notes), FAMILIES["vit"], pooler=False)
    assert other == SPACE["config"]
    assert architecture(ViTConfig(**notes), FAMILIES["vit"], pooler=True)["pooler_act"] == "relu"


def test_weights_are_hashed_by_name_shape_and_value():
    """The order of the file and its dtype do not count; everything else does."""
    one, two = torch.arange(6.0), torch.ones(2, 3)
    digest = weights_sha256({"one": one, "two": two})
    assert weights_sha256({"two": two.half(), "one": one.half()}) == digest
    assert weights_sha256({"one": one.reshape(2, 3), "two": two}) != digest
    assert weights_sha256({"two": one, "one": two}) != digest
