"""vitriton.pipeline and transformers.pipeline, called alike on one checkpoint: equal structure, types and numbers."""

import base64
import functools
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor
from transformers.pipelines.pt_utils import KeyDataset
from vitriton import ContractMismatch, pipeline

TASK = "image-feature-extraction"
TOLERANCE = 1e-4


# The reference leaves animated files open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(scope="module")
def both(server, models):
    """A function: the reference and ours for a served model, made with the same arguments."""

    @functools.cache
    def load(name):
        checkpoint = models[name]
        model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
        return model, AutoImageProcessor.from_pretrained(checkpoint, backend="pil")

    @contextmanager
    def make(name, **arguments):
        model, processor = load(name)
        reference = transformers.pipeline(TASK, model=model, image_processor=processor, **arguments)
        with pipeline(TASK, model=name, dtype=torch.float32, url=server.grpc_address, **arguments) as ours:
            yield reference, ours

    return make


@pytest.fixture(scope="module")
def paths(files):
    """Five of the awkward images, as the reference takes them."""
    return [str(path) for path in files[::5]]


class Rows(torch.utils.data.Dataset):
    """A data set of dicts, as `datasets` has them."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return {"image": self.paths[index], "label": index}


class Endless(torch.utils.data.IterableDataset):
    """A data set without a length."""

    def __init__(self, paths):
        self.paths = paths

    def __iter__(self):
        return iter(self.paths)


INPUTS = {
    "single": lambda paths: paths[0],
    "list": lambda paths: paths,
    "list of one": lambda paths: paths[:1],
    "PIL images": lambda paths: [Image.open(path) for path in paths],
    "generator": lambda paths: (path for path in paths),
    "data set": lambda paths: KeyDataset(Rows(paths), "image"),
    "iterable data set": Endless,
}


def assert_same(ours, theirs):
    """What two calls returned: the same nesting of the same types, and the same numbers."""
    if not isinstance(theirs, (list, torch.Tensor)):
        assert iter(ours) is ours
        assert iter(theirs) is theirs
        ours, theirs = list(ours), list(theirs)
    assert type(ours) is type(theirs)
    assert len(ours) == len(theirs) > 0
    if isinstance(theirs, list) and not isinstance(theirs[0], float):
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
        return
    if isinstance(theirs, list):
        assert {type(number) for number in ours} == {float}
    else:
        assert (ours.dtype, ours.device, ours.shape) == (torch.float32, theirs.device, theirs.shape)
        assert not ours.requires_grad
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.abs(ours - theirs).max() <= TOLERANCE * max(1, np.abs(theirs).max())


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("return_tensors", [None, False, True])
@pytest.mark.parametrize("pool", [None, False, True])
def test_every_kind_of_call(both, paths, pool, return_tensors, batch_size):
    """Whatever is called with whatever is said in the call."""
    said = {"pool": pool, "return_tensors": return_tensors, "batch_size": batch_size}
    with both("tiny-deit") as (reference, ours):
        for name, inputs in INPUTS.items():
            try:
                assert_same(ours(inputs(paths), **said), reference(inputs(paths), **said))
            except AssertionError as error:
                raise AssertionError(f"called with a {name}") from error


def test_what_is_said_once(both, paths):
    """Whatever is said when the pipeline is made; a call goes over it."""
    said = {"pool": True, "return_tensors": True, "batch_size": 2, "num_workers": 0, "timeout": 20}
    with both("tiny-deit", **said) as (reference, ours):
        assert_same(ours(paths), reference(paths))
        assert_same(ours(paths[0]), reference(paths[0]))
        assert_same(ours(paths, pool=False), reference(paths, pool=False))
        assert_same(ours(paths, return_tensors=False), reference(paths, return_tensors=False))
        for method in ("predict", "transform"):
            assert_same(getattr(ours, method)(paths), getattr(reference, method)(paths))


def test_texts_that_hold_an_image(both, paths):
    """Bare base64, in one line and in several, and a data URI."""
    data = Path(paths[0]).read_bytes()
    line = base64.b64encode(data).decode()
    with both("tiny-deit") as (reference, ours):
        for text in (line, base64.encodebytes(data).decode(), f"data:image/jpeg;base64,{line}"):
            assert_same(ours(text), reference(text))


def test_no_images(both):
    """An empty generator gives an empty list in both; for an empty list the reference has an IndexError."""
    with both("tiny-deit") as (reference, ours):
        assert ours(path for path in []) == reference(path for path in []) == []
        with pytest.raises(IndexError):
            reference([])
        assert ours([]) == []


@pytest.mark.parametrize("inputs", [None, 3, {"image": "a.png"}])
def test_what_is_no_images(both, inputs):
    """A TypeError in both."""
    with both("tiny-deit") as (reference, ours):
        for called in (reference, ours):
            with pytest.raises(TypeError):
                called(inputs)


@pytest.mark.parametrize("pool", [False, True])
def test_trained_weights(both, paths, pool):
    """The trained DINOv2-small, whose pooler has no parameters."""
    with both("dinov2-small-trained") as (reference, ours):
        assert_same(ours(paths[0], pool=pool), reference(paths[0], pool=pool))
        said = {"pool": pool, "return_tensors": True}
        assert_same(ours(paths[1:3], **said), reference(paths[1:3], **said))


def test_a_checkpoint_without_a_trained_pooler(both, paths):
    """All tokens are the reference's; the pooled output, which is random there, is an error that says so."""
    with both("tiny-classifier") as (reference, ours):
        for name in ("single", "list", "generator", "data set"):
            assert_same(ours(INPUTS[name](paths)), reference(INPUTS[name](paths)))
        with pytest.raises(ContractMismatch, match="pools by cls") as caught:
            ours(paths, pool=True)
        assert isinstance(caught.value, ValueError)
        assert "random weights" in str(caught.value)


def test_the_served_pooling_can_be_allowed(server, paths):
    """Then it is what `Client.embed` gives: here the CLS token."""
    with pipeline(
        TASK, model="tiny-classifier", url=server.grpc_address, allow_served_pooling=True, return_tensors=True
    ) as ours:
        for path in paths[:3]:
            assert torch.allclose(ours(path, pool=True), ours(path)[:, 0], atol=1e-6)


def test_a_model_is_found_by_what_was_exported(server, models):
    """By the folder's name, where it is not the name of the export too."""
    assert models["dinov2-small-trained"].name != "dinov2-small-trained"
    with pipeline(TASK, model=models["dinov2-small-trained"].name, url=server.grpc_address) as ours:
        assert ours.model.name == "dinov2-small-trained"


def test_what_contradicts_the_export_is_refused(server, models):
    """Against what `vitriton export` really writes."""
    processor = AutoImageProcessor.from_pretrained(
        models["tiny-deit"], backend="pil", crop_size={"height": 8, "width": 8}
    )
    for given in (
        {"dtype": torch.float16},
        {"image_processor": "google/vit-base-patch16-224"},
        {"image_processor": processor},
        {"image_processor_kwargs": {"size": {"height": 100, "width": 100}}},
        {"revision": "main"},
    ):
        with pytest.raises(ContractMismatch, match="model tiny-deit on the server at"):
            pipeline(TASK, model="tiny-deit", url=server.grpc_address, **given)
