"""bench/stores.py on a few vectors: what it draws, and its table."""

import json

import numpy as np
import pytest
import stores


def test_vectors_are_the_same_each_time():
    """The seed says what is drawn, queries are not among them, and two of a cluster are as near as it is said."""
    vectors = stores.Vectors(number=5000, dimensions=384)
    drawn = np.concatenate(list(vectors.blocks()))
    np.testing.assert_array_equal(drawn, np.concatenate(list(vectors.blocks())))
    assert drawn.shape == (5000, 384)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-5)
    nearest = (vectors.queries(20) @ drawn.T).max(axis=1)
    assert ((nearest > 0.6) & (nearest < 0.9)).all()


def test_the_command(tmp_path, capsys, subprocesses):
    """The table and the file have figures of each answer, and the store is gone."""
    url = str(tmp_path / "x.lance")
    sizes = ["--vectors", "1500", "--dimensions", "16", "--queries", "5", "--batch", "500"]
    stores.main([url, *sizes, "--json", str(tmp_path / "figures.json")])
    lines = capsys.readouterr().out.splitlines()
    names = ["exact", "index", "exact 10 %", "index 10 %", "exact 1 %", "index 1 %"]
    assert [line[:12].strip() for line in lines[4:]] == names
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["ask"]["answers"]) == names
    assert figures["ask"]["answers"]["exact 1 %"]["recall"] == pytest.approx(1)
    assert figures["disk_mb"] > 0.1
    assert not (tmp_path / "x.lance").exists()
