"""Images and texts in one space, end to end: a real Triton and one client, against the full model in transformers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import exports, two_towers
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from vitriton import Client, ModelNotFound, list_models
from vitriton_export import VerifyOptions, verify_model
from vitriton_server import TritonServer

PHOTOS = sorted(Path("examples/photos").glob("*.jpg"))[:4]
TEXTS = ["a photo of a cat", "a cup of coffee on a table", "", "the quick brown fox jumps over the lazy dog " * 20]
OTHERS = ["altclip", "chinese_clip", "metaclip_2", "siglip2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return {name: two_towers.write(name, folder / name) for name in ("clip", "siglip")}


@pytest.fixture(scope="module")
def served(subprocesses, checkpoints, tmp_path_factory):
    """CLIP as it is and SigLIP normalized, with both towers; CLIP's images alone, and its texts alone."""
    repository = tmp_path_factory.mktemp("towers") / "models"
    exports.export(checkpoints["clip"], repository, name="clip")
    exports.export(checkpoints["siglip"], repository, name="siglip", outputs="pooled", l2_normalize=True)
    for tower in ("image", "text"):
        exports.export(checkpoints["clip"], repository, name=f"{tower}s", outputs="pooled", towers=tower)
    with TritonServer(repository) as server:
        yield server


class Reference:
    """The full model with its processors, called as transformers' documentation does it."""

    def __init__(self, folder):
        self.model = AutoModel.from_pretrained(folder).eval()
        self.fixed = hasattr(self.model, "logit_bias")
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = processor([Image.open(path).convert("RGB") for path in PHOTOS], return_tensors="pt")
        padding = "max_length" if self.fixed else True
        self.texts = tokenizer(TEXTS, return_tensors="pt", padding=padding, truncation=True)
        for unused in ("token_type_ids", *(("attention_mask",) if self.fixed else ())):
            self.texts.pop(unused, None)

    @torch.no_grad()
    def features(self):
        images, texts = self.model.get_image_features(**self.images), self.model.get_text_features(**self.texts)
        return images.pooler_output.numpy(), texts.pooler_output.numpy()

    @torch.no_grad()
    def probabilities(self):
        logits = self.model(**self.images, **self.texts).logits_per_image
        return (logits.sigmoid() if self.fixed else logits.softmax(dim=1)).numpy()


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def zero_shot(client):
    """The probability of each text for each image: the code of docs/guides/text.md."""
    model = client.describe()
    cosines = unit(client.embed(PHOTOS)) @ unit(client.embed_texts(TEXTS)).T
    logits = cosines * model.logit_scale + (model.logit_bias or 0)
    if model.logit_bias is not None:
        return 1 / (1 + np.exp(-logits))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_one_client_embeds_both(served, checkpoints, name):
    """The vectors are those of the full model, normalized where they were exported so; so are the probabilities."""
    reference = Reference(checkpoints[name])
    images, texts = reference.features()
    with Client(served.grpc_address, model=name) as client:
        client.wait_ready(timeout_s=60)
        model = client.describe()
        assert (model.towers, model.pooling, model.l2_normalize) == (("image", "text"), "projection", name == "siglip")
        assert model.logit_scale == pytest.approx(reference.model.logit_scale.detach().exp().item())
        assert model.logit_bias == (pytest.approx(-1.5) if name == "siglip" else None)
        for actual, expected in ((client.embed(PHOTOS), images), (client.embed_texts(TEXTS), texts)):
            close(actual, unit(expected) if model.l2_normalize else expected)
        close(zero_shot(client), reference.probabilities())


def test_tokens_of_both(served):
    with Client(served.grpc_address, model="clip") as client:
        assert client.embed(PHOTOS, pool=False).shape == (4, 17, 32)
        assert [rows.shape[1] for rows in client.embed_texts(TEXTS, pool=False)] == [32] * 4


def test_towers_on_two_servers_are_compared_by_their_fingerprint(served):
    """An export of the images alone and one of the texts alone make the vectors of the export of both."""
    models = {model.name: model for model in list_models(served.grpc_address)}
    assert models["images"].fingerprint == models["texts"].fingerprint == models["clip"].fingerprint
    assert models["siglip"].fingerprint != models["clip"].fingerprint
    with (
        Client(served.grpc_address, model="images") as images,
        Client(served.grpc_address, model="texts") as texts,
        Client(served.grpc_address, model="clip") as both,
    ):
        close(images.embed(PHOTOS), both.embed(PHOTOS))
        close(texts.embed_texts(TEXTS), both.embed_texts(TEXTS))
        with pytest.raises(ModelNotFound, match="has no texts; it embeds images"):
            images.embed_texts(TEXTS)
        with pytest.raises(ModelNotFound, match="has no images; it embeds texts"):
            texts.embed(PHOTOS)


def test_verify_asks_the_server_for_both(served, checkpoints):
    options = VerifyOptions(server=served.grpc_address, name="siglip", reference=str(checkpoints["siglip"]))
    report = verify_model(options)
    assert report.passed
    stages = [(tower.exported.tower, stage.stage) for tower in report.towers for stage in tower.stages]
    assert {("image", "pixels"), ("image", "embedding"), ("text", "input_ids"), ("text", "embedding")} <= {*stages}


def test_the_command_shows_both(served):
    command = [Path(sys.executable).with_name("vitriton"), "models", "--url", served.grpc_address, "--model", "siglip"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "siglip: images and texts in one space; logit_scale 12.1825, logit_bias -1.5" in shown.stderr
    assert [line.split()[1] for line in shown.stdout.splitlines() if "siglip" in line] == ["pooled", "text_pooled"]
    (model,) = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)[
        "models"
    ]
    assert (model["towers"], model["logit_bias"]) == (["image", "text"], -1.5)


@pytest.mark.long
def test_the_other_architectures(subprocesses, tmp_path):
    """Through a real Triton."""
    folders = {name: two_towers.write(name, tmp_path / name) for name in OTHERS}
    for name, folder in folders.items():
        exports.export(folder, tmp_path / "models", name=name, outputs="pooled")
    with TritonServer(tmp_path / "models") as server:
        for name, folder in folders.items():
            reference = Reference(folder)
            with Client(server.grpc_address, model=name) as client:
                for actual, expected in zip(
                    (client.embed(PHOTOS), client.embed_texts(TEXTS)), reference.features(), strict=True
                ):
                    close(actual, expected)
                close(zero_shot(client), reference.probabilities())


@pytest.mark.long
def test_clip_in_its_real_shape(subprocesses, tmp_path):
    """openai/clip-vit-base-patch32 with random weights: vectors and zero-shot probabilities are transformers'."""
    checkpoint = two_towers.write_clip(tmp_path / "clip")
    exports.export(checkpoint, tmp_path / "models", name="clip", outputs="pooled")
    reference = Reference(checkpoint)
    with TritonServer(tmp_path / "models") as server, Client(server.grpc_address, model="clip") as client:
        assert client.describe().logit_scale == pytest.approx(100, rel=1e-4)
        for actual, expected in zip(
            (client.embed(PHOTOS), client.embed_texts(TEXTS)), reference.features(), strict=True
        ):
            assert actual.shape == (4, 512)
            close(actual, expected)
            cosines = unit(expected) @ unit(expected).T
            assert cosines[~np.eye(4, dtype=bool)].max() < 0.999  # no two are the same, and prove nothing
        close(zero_shot(client), reference.probabilities())
