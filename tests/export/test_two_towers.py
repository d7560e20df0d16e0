"""Models with an image and a text tower: which towers are exported, in which space, and that all or none are."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support import awkward, older, two_towers
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export import ExportError, ExportOptions, ParityError, VerifyOptions, export_model, verify_model
from vitriton_export import _towers as towers
from vitriton_export._checkpoint import source as sources
from vitriton_export._checkpoint.text_architectures import TEXT_TOWERS
from vitriton_export._errors import OptionError
from vitriton_export._parity import corpus as images
from vitriton_export._parity import texts
from vitriton_export._parity.texts import TextRunner
from vitriton_export._repository.existing import difference
from vitriton_export._repository.remove import remove

KINDS = ("pooled", "text_pooled")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return two_towers.write("clip", tmp_path_factory.mktemp("towers") / "clip")


@pytest.fixture(scope="module")
def exported(clip, tmp_path_factory):
    """A repository with the image tower alone, and the result of an export of both over it."""
    repository = tmp_path_factory.mktemp("towers") / "r"
    options = ExportOptions(model=str(clip), repository=repository, name="m", outputs="pooled", towers="image")
    alone = export_model(options)
    shutil.copytree(repository, repository.with_name("alone"))
    return alone, export_model(dataclasses.replace(options, towers="auto"))


@pytest.fixture
def copied(exported, tmp_path):
    """The options of the second export, for a copy of its repository."""
    _, result = exported
    shutil.copytree(result.repository, tmp_path / "r")
    model = result.manifest["options"]["model"]
    return ExportOptions(model=model, repository=tmp_path / "r", name="m", outputs="pooled")


def plans(folder, **options):
    source = sources.fetch_weights(sources.find(str(folder), None))
    return towers.plans(source, ExportOptions(model=str(folder), name="m", **options))


def spaces(folder, **options):
    return {plan.deployment.fingerprint for plan in plans(folder, **options)}


def without(clip, folder, *files):
    return shutil.copytree(clip, folder, ignore=shutil.ignore_patterns(*files))


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_both_towers_are_exported_under_one_name(exported):
    """In one space, with what turns a cosine into a logit; an image tower that was there is replaced with them."""
    alone, both = exported
    first, second = (tower.deployment for tower in both.towers)
    assert (first.step.tower, second.step.tower) == ("image", "text")
    assert alone.deployment.fingerprint == first.fingerprint == second.fingerprint
    assert first.shapes["pooled"] == second.shapes["text_pooled"] == (24,)
    models = ["m_preprocess", "m_tokenize", "m_pooled_encoder", "m_text_pooled_encoder", "m_pooled", "m_text_pooled"]
    assert list(both.sizes) == models
    for tower, kind in zip(both.towers, KINDS, strict=True):
        manifest = json.loads((both.repository / f"m_{kind}/2/manifest.json").read_text())  # one version for all
        assert manifest == tower.manifest
        assert (manifest["pooling"], manifest["towers"]) == ("projection", ["image", "text"])
        assert manifest["logit_scale"] == pytest.approx(2.718281828**2.5, rel=1e-5)
    assert [len(tower.parity) for tower in both.towers] == [3, 3]
    assert both.towers[0].parity[0].images == len(images.corpus())
    assert both.towers[1].parity[0].images == len(texts.corpus())
    assert both.notes == ("pooling is projection, in which images and texts are compared",)


def test_the_space_is_that_of_both_towers(clip, tmp_path):
    """Whichever of them is exported; other weights of the text tower, or other ways to prepare an input, move it."""
    (space,) = spaces(clip)
    assert spaces(clip, towers="image") == spaces(clip, towers="text", pooling="projection") == {space}
    other = two_towers.write("clip", tmp_path / "other", seed=1)
    assert space not in spaces(other, towers="image")
    assert space not in spaces(clip, image_size=40)
    assert space not in spaces(clip, max_length=20)


def test_other_poolings_have_the_space_of_the_image_tower(clip, tmp_path):
    """It does not depend on the text tower."""
    other = two_towers.write("clip", tmp_path / "other", seed=1)
    assert spaces(clip, pooling="pooler") == spaces(other, pooling="pooler", towers="image")


@pytest.mark.parametrize(
    ("missing", "options", "exported", "note"),
    [
        (TOKENIZER, {}, ["image"], "the text tower of c is not exported"),
        (TOKENIZER, {"towers": "image"}, ["image"], "the fingerprint is that of the image tower alone"),
        (["preprocessor_config.json"], {}, ["text"], "the image tower of c is not exported"),
        ([], {"pooling": "cls"}, ["image"], "--pooling is cls"),
        ([], {"pooling": "projection"}, ["image", "text"], ""),
        ([], {"max_length": 20, "image_size": 40}, ["image", "text"], "pooling is projection"),
    ],
    ids=["no tokenizer", "images", "no image processor", "cls", "projection", "options of both"],
)
def test_which_towers_are_exported(clip, tmp_path, missing, options, exported, note):
    planned = plans(without(clip, tmp_path / "c", *missing), **options)
    assert [plan.deployment.step.tower for plan in planned] == exported
    assert note in " ".join(planned[0].notes)


@pytest.mark.parametrize(
    ("missing", "options", "reason"),
    [
        (TOKENIZER, {"towers": "both"}, "has no tokenizer.json"),
        (TOKENIZER, {"towers": "text"}, "has no tokenizer.json"),
        (["preprocessor_config.json"], {"towers": "both"}, "has no preprocessor_config.json"),
        (["preprocessor_config.json", *TOKENIZER], {}, "has no preprocessor_config.json"),
        ([], {"towers": "both", "pooling": "cls"}, "pooling is cls, and .* leave it out, or use --towers image"),
        ([], {"towers": "text", "pooling": "mean"}, "pooling is mean, and the images and texts of c are compared"),
        ([], {"towers": "image", "max_length": 20}, "max_length is for models that take texts, and c takes images"),
        ([], {"towers": "text", "image_size": 40}, "image_size is for models that take images, and c takes texts"),
        ([], {"dimensions": 8}, "dimensions is given, and would cut the vectors of texts alone"),
    ],
)
def test_what_does_not_fit_together(clip, tmp_path, missing, options, reason):
    with pytest.raises(ExportError, match=reason):
        plans(without(clip, tmp_path / "c", *missing), **options)


@pytest.mark.parametrize(
    ("option", "change"),
    [
        ({"max_length": 20}, "--max-length was not given and is 20"),
        ({"image_size": 40}, "--image-size was not given and is 40"),
    ],
    ids=["texts", "images"],
)
def test_the_option_that_changes_the_space_is_named(copied, option, change):
    """Whichever tower's vectors it changes: the space is that of both."""
    with pytest.raises(ExportError, match=f"must not be mixed: {change}"):
        export_model(dataclasses.replace(copied, **option))


def test_a_model_with_one_tower_has_no_other(tiny_vit_checkpoint):
    with pytest.raises(OptionError, match="towers is text, and tiny-vit takes images alone"):
        plans(tiny_vit_checkpoint, towers="text")
    assert len(plans(tiny_vit_checkpoint, towers="image")) == 1


def test_texts_of_one_length(tmp_path):
    """SigLIP reads padding as tokens: the length of its training cannot be changed, nor the side of the padding."""
    folder = two_towers.write("siglip", tmp_path / "siglip")
    assert plans(folder)[1].deployment.step.spec.fixed_length
    with pytest.raises(OptionError, match="max_length is given, and the model takes texts of one length"):
        plans(folder, max_length=8)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    with pytest.raises(ExportError, match="pads texts on the left"):
        plans(folder, towers="both")


def test_a_text_tower_that_fails_leaves_the_repository_unchanged(exported, tmp_path, monkeypatch):
    """The image tower, which has passed, is not installed either."""
    alone, _ = exported
    repository = shutil.copytree(alone.repository.with_name("alone"), tmp_path / "r")
    before, run = tree(repository), TextRunner.run

    def wrong(self, given):
        found = run(self, given)
        values = {
            name: [row + 0.1 if name == "embedding" else row for row in rows] for name, rows in found.values.items()
        }
        return dataclasses.replace(found, values=values)

    monkeypatch.setattr(TextRunner, "run", wrong)
    options = ExportOptions(model=alone.manifest["options"]["model"], repository=repository, name="m", outputs="pooled")
    with pytest.raises(ParityError, match="embedding of"):
        export_model(options)
    assert tree(repository) == before
    assert [path.name for path in tmp_path.iterdir()] == ["r"]  # no staging folder


def test_what_is_there_already(copied, exported):
    """`--skip-existing` looks at both towers, or at the one that is asked for."""
    assert difference(copied) is None
    assert difference(dataclasses.replace(copied, towers="text")) == "--towers was auto and is text"
    alone = dataclasses.replace(copied, repository=exported[0].repository.with_name("alone"))
    assert difference(alone) == "--towers was image and is auto"
    assert difference(dataclasses.replace(alone, towers="image")) is None
    shutil.rmtree(copied.folder / "m_text_pooled_encoder")
    assert "m_text_pooled_encoder" in difference(copied)


def edit(old, new):
    def damage(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


def swap_two_tokens(path):
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(document))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_its_end(path):
    """What is left of this configuration is a valid one."""
    text = path.read_text()
    path.write_text(text[: text.index("ensemble_scheduling")])


OTHER = "is not the file that was exported"
DAMAGES = [
    ("m_tokenize/2/tokenizer.json", swap_two_tokens, OTHER),
    ("m_tokenize/2/tokenizer.json", cut, OTHER),
    ("m_tokenize/2/tokenizer.json", Path.unlink, "is missing"),
    ("m_tokenize/2/tokenize.json", edit('"max_length": ', '"max_length": 1'), OTHER),
    ("m_tokenize/2/model.py", edit("\n", "\n\n"), OTHER),
    ("m_tokenize/2/vitriton_tokenizing.py", edit("\n", "\n\n"), OTHER),
    ("m_preprocess/2/vitriton_preprocessing/steps.py", Path.unlink, "is missing"),
    ("m_preprocess/2/vitriton_preprocessing/__init__.py", edit("\n", "\n\n"), OTHER),
    ("m_preprocess/2/preprocess.json", edit('"max_bytes": ', '"max_bytes": 1'), OTHER),
    ("m_text_pooled/config.pbtxt", cut, "m_text_pooled/config.pbtxt"),
    ("m_text_pooled/config.pbtxt", without_its_end, "names no steps"),
    ("m_text_pooled/config.pbtxt", edit('string_value: "v1-', 'string_value: "v1-0'), "has another fingerprint"),
    ("m_text_pooled/config.pbtxt", edit("max_batch_size: 32", "max_batch_size: 8"), "has another max_batch_size"),
    ("m_text_pooled_encoder/config.pbtxt", edit('backend: "onnxruntime"', ""), "names no backend"),
    ("m_text_pooled/2/manifest.json", Path.unlink, "manifest.json is missing"),
    ("m_text_pooled/2/manifest.json", lambda path: path.write_text("{"), "manifest.json cannot be read"),
]


@pytest.mark.parametrize(("file", "damage", "fault"), DAMAGES)
def test_a_damaged_export(file, damage, fault, copied):
    """`vitriton verify --files` names the file, and `--skip-existing` exports it again."""
    damage(copied.folder / file)
    done = CliRunner().invoke(app, ["verify", "m", "--repository", str(copied.folder), "--files"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert file in done.stderr
    assert fault in done.stderr
    assert difference(copied) is not None


@pytest.mark.parametrize(
    ("gone", "fault"),
    [
        (["m_tokenize", "m_text_pooled", "m_text_pooled_encoder"], "its text tower is missing"),
        (["m_preprocess", "m_pooled", "m_pooled_encoder"], "its image tower is missing"),
        (["m_text_pooled_encoder"], "m_text_pooled_encoder is missing"),
    ],
)
def test_a_tower_that_is_missing(gone, fault, copied):
    """The manifest of the other names it."""
    for model in gone:
        shutil.rmtree(copied.folder / model)
    done = CliRunner().invoke(app, ["verify", "m", "--repository", str(copied.folder), "--files"])
    assert done.exit_code == 1
    assert f"m in {copied.folder} is not as it was exported: {fault}; copy or export it again" in done.stderr
    assert difference(copied) is not None


def test_what_is_not_listed_is_not_compared(copied):
    """An older manifest lists the graphs alone; code that lacks a module is an error all the same, without a trace."""
    older.with_graphs_alone(copied.folder)
    (copied.folder / "m_tokenize/2/model.py").write_text("# another")
    assert difference(copied) is None
    command = ["verify", "m", "--repository", str(copied.folder)]
    done = CliRunner().invoke(app, [*command, "--files", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["name"], document["passed"]) == ("m", True)
    (copied.folder / "m_preprocess/2/vitriton_preprocessing/steps.py").unlink()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "cannot be loaded: No module named" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.output


def test_remove_takes_both(copied):
    assert len(remove(copied.folder, "m")) == 6
    assert not [path for path in copied.folder.iterdir() if path.is_dir()]


def test_another_space_is_refused_under_the_name(copied, tmp_path):
    """Another text tower is another space, even for an export of the images alone."""
    other = two_towers.write("clip", tmp_path / "other", seed=1)
    with pytest.raises(ExportError, match=r"already serves another embedding space as m.*the weights are others"):
        export_model(dataclasses.replace(copied, model=str(other), towers="image"))


def test_verify_compares_both_towers(copied, tmp_path):
    """On the built-in inputs; your own images or texts are compared with the tower that takes them."""
    report = verify_model(VerifyOptions(repository=copied.folder))
    assert report.passed
    assert [tower.exported.tower for tower in report.towers] == ["image", "text"]
    assert report.images == len(images.corpus()) + len(texts.corpus())
    assert {stage["tower"] for stage in report.to_dict()["stages"]} == {"image", "text"}
    (tmp_path / "texts.txt").write_text("a photo of a cat\na cup\n")
    report = verify_model(VerifyOptions(repository=copied.folder, texts=tmp_path / "texts.txt"))
    assert [(tower.exported.tower, tower.compared) for tower in report.towers] == [("text", 2)]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(awkward.taken()["orientation-6.jpg"])
    given = {"images": tmp_path / "images", "texts": tmp_path / "texts.txt"}
    report = verify_model(VerifyOptions(repository=copied.folder, **given))
    assert [(tower.exported.tower, tower.compared) for tower in report.towers] == [("image", 1), ("text", 2)]


@pytest.mark.long
@pytest.mark.parametrize("model_type", sorted(TEXT_TOWERS.keys() - {"clip"}))
def test_a_small_model_of_each_architecture(model_type, tmp_path):
    """Both towers pass the gate, and share a space."""
    folder = two_towers.write(model_type, tmp_path / model_type)
    result = export_model(ExportOptions(model=str(folder), repository=tmp_path / "r", name="m"))
    assert [tower.deployment.step.tower for tower in result.towers] == ["image", "text"]
    assert len({tower.deployment.fingerprint for tower in result.towers}) == 1
    assert len({tower.deployment.shapes[kind] for tower, kind in zip(result.towers, KINDS, strict=True)}) == 1


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precisions(clip, tmp_path, precision):
    """Both towers meet the gates of the precision, in a space of its own."""
    options = ExportOptions(model=str(clip), repository=tmp_path / "r", name="m", outputs="pooled", precision=precision)
    result = export_model(options)
    assert [tower.deployment.precision for tower in result.towers] == [precision] * 2
    assert {result.deployment.fingerprint} != spaces(clip)
