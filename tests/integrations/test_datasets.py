"""Hugging Face's datasets: `map` caches what a pipeline or a client computes, and takes both to its workers."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, disable_progress_bars, load_from_disk
from vitriton import Client, pipeline

disable_progress_bars()


@pytest.fixture
def photo_set(photos, tmp_path):
    """The sample photos on disk, as caches need it."""
    Dataset.from_dict({"path": photos}).save_to_disk(tmp_path / "set")
    return load_from_disk(str(tmp_path / "set"))


def _with_pipeline(batch, extractor, log):
    with Path(log).open("a") as file:
        file.write("called\n")
    return {"vector": [answer[0] for answer in extractor(batch["path"])]}


def _with_client(batch, extractor, log):
    with Path(log).open("a") as file:
        file.write("called\n")
    return {"vector": extractor.embed(batch["path"])}


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("made_of", [_with_pipeline, _with_client])
def test_map(made_of, workers, url, photos, photo_set, tmp_path):
    """A second run computes nothing, with an extractor of its own; workers are forked."""
    rows, log = [], tmp_path / "log"
    for _ in range(2):
        extractor = (
            Client(url, model="photos")
            if made_of is _with_client
            else pipeline(model="photos", url=url, pool=True, allow_served_pooling=True)
        )
        with extractor:
            arguments = {"extractor": extractor, "log": str(log)}
            mapped = photo_set.map(made_of, batched=True, batch_size=2, num_proc=workers, fn_kwargs=arguments)
        rows.append(np.array(mapped["vector"], np.float32))
    with Client(url, model="photos") as client:
        np.testing.assert_allclose(rows[0], client.embed(photos), atol=1e-4)
    assert (rows[0] == rows[1]).all()
    assert len(log.read_text().splitlines()) == 4
