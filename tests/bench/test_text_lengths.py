"""The choice of the lengths to which texts are padded."""

import sys

import onnx_ir as ir
import pytest
import text_lengths


def test_requests_of_one_length_share_a_batch():
    """The oldest goes first, with those that wait with its length; an answered caller sends its next text."""
    sent = [8, 16, 8, 8, 32, 8, 16]
    assert list(text_lengths.batches(sent, 4, 2)) == [[8, 8], [16], [8, 8], [32], [16]]
    assert [len(batch) for batch in text_lengths.batches(sent, 1, 8)] == [1] * 7


@pytest.mark.parametrize("name", text_lengths.CHOICES)
def test_no_choice_cuts_a_text(name):
    """Padding only adds, and a longer text never gets fewer tokens."""
    padded = [text_lengths.CHOICES[name](length) for length in range(1, 513)]
    assert all(found >= length for length, found in enumerate(padded, 1))
    assert padded == sorted(padded)


def test_the_command(tmp_path, monkeypatch, capsys):
    """A line for each choice, with texts/s if there is a model."""
    shape = ir.Shape(["batch", "length"])
    ids, mask = (ir.val(name, ir.DataType.INT64, shape) for name in ("input_ids", "attention_mask"))
    result = ir.val("embedding", ir.DataType.INT64, shape)
    graph = ir.Graph(
        [ids, mask], [result], nodes=[ir.node("Mul", [ids, mask], outputs=[result])], opset_imports={"": 20}, name="g"
    )
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    monkeypatch.setattr(
        sys, "argv", ["text_lengths.py", "--model", str(tmp_path / "model.onnx"), "--texts", "40", "--rounds", "1"]
    )
    text_lengths.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == list(text_lengths.CHOICES)
    assert all("texts/s" in line for line in lines)
