"""The gates and the figures that are held against them, as tables."""

import json
import math

import numpy as np
import pytest
from vitriton_export._parity import gates as _gates
from vitriton_export._parity.gates import Gate, gates
from vitriton_export._parity.tally import WORST_IMAGES, Tally
from vitriton_export.commands import results

STAGES = ["pixels", "embedding", "last_hidden_state", "embedding alone", "last_hidden_state alone"]


@pytest.mark.parametrize(
    ("gate", "error", "cosine", "reference", "passes"),
    [
        (Gate(tolerance=0), 0.0, 1.0, 255.0, True),
        (Gate(tolerance=0), 1.0, 1.0, 255.0, False),
        (Gate(tolerance=1e-4), 1e-4, 0.0, 0.1, True),
        (Gate(tolerance=1e-4), 1.1e-4, 1.0, 0.1, False),
        (Gate(tolerance=1e-4), 9e-4, 1.0, 10.0, True),
        (Gate(min_cosine=0.99), 99.0, 0.99, 1.0, True),
        (Gate(min_cosine=0.99), 0.0, 0.9899, 1.0, False),
        (Gate(tolerance=1.0, min_cosine=0.99), 0.5, 0.98, 1.0, False),
        (Gate(tolerance=1e-4), math.nan, 1.0, 1.0, False),
        (Gate(min_cosine=-1), 0.0, math.nan, 1.0, False),
    ],
)
def test_what_passes(gate, error, cosine, reference, passes):
    """A tolerance counts in units of max(1, max|reference|), a cosine as it is; NaN passes nothing."""
    assert gate.passes(error, cosine, reference) is passes


def test_what_a_gate_says():
    """The demand in words, with the figure that applies."""
    assert Gate(tolerance=0).describe(255.0) == "identical"
    assert Gate(tolerance=1e-4).describe(5.0) == "max abs error <= 0.0005"
    assert Gate(min_cosine=0.9999).describe(5.0) == "cosine >= 0.9999"
    assert Gate(min_cosine=0.9, moved=True).describe(5.0) == "cosine >= 0.9 (set by --min-cosine)"


@pytest.mark.parametrize("entries", [{}, {"tolerance": -1.0}, {"min_cosine": 1.5}, {"tolerance": math.nan}])
def test_gates_that_demand_nothing_are_none(entries):
    """At least one demand, and one that can be met."""
    with pytest.raises(ValueError, match=r"tolerance|min_cosine"):
        Gate(**entries)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_has_every_gate(precision):
    """They survive the manifest, and a demand of the user's moves those of the outputs alone."""
    demanded = gates(precision)
    assert list(demanded) == STAGES
    assert _gates.from_document(json.loads(json.dumps(_gates.to_document(demanded)))) == demanded
    moved = gates(precision, min_cosine=0.5)
    assert moved == demanded | {stage: Gate(min_cosine=0.5, moved=True) for stage in STAGES[1:3]}
    assert _gates.from_document(_gates.to_document(moved)) == moved


def test_half_precision_outputs_are_held_to_what_they_can_hold():
    """float32 arithmetic with float16 outputs has the gates of fp16; at other precisions the type changes nothing."""
    assert gates("fp32", output_dtype="fp16") == gates("fp16")
    assert gates("int8", output_dtype="fp16") == gates("int8")


def test_a_tally_names_the_worst():
    """By what the gate measures, the worst first, and no more than a few; identical images are not among them."""
    by_error, by_cosine = Tally("embedding", Gate(tolerance=1.0)), Tally("embedding", Gate(min_cosine=0.0))
    target = np.array([3.0, 4.0], np.float32)
    for number in range(20):
        turned = target + np.array([4.0, -3.0], np.float32) * (number % 10) / 100
        longer = target * (1 + (19 - number))
        for tally in (by_error, by_cosine):
            tally.add(f"turned-{number}", turned, target)
            tally.add(f"longer-{number}", longer, target)
    assert [figures.image for figures in by_error.result().worst] == ["longer-0", "longer-1", "longer-2"]
    assert [figures.image for figures in by_cosine.result().worst] == ["turned-9", "turned-19", "turned-8"]
    assert len(by_error.result().worst) == WORST_IMAGES
    same = Tally("embedding", Gate(tolerance=0))
    same.add("same", target, target)
    assert same.result().worst == ()
    assert same.result().passed


def test_figures_of_several_vectors():
    """Worst and mean cosine are over the tokens, the places of a feature map, or the pixels."""
    stage = Tally("last_hidden_state", Gate(min_cosine=0.5))
    stage.add("tokens", np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert (stage.result().min_cosine, stage.result().mean_cosine) == (0.0, 0.5)
    convolutional = np.zeros((2, 1, 2))  # (C, h, w)
    convolutional[0] = 1.0
    other = convolutional.copy()
    other[:, 0, 1] = (0.0, 1.0)
    stage.add("map", other, convolutional)
    assert (stage.result().min_cosine, stage.result().mean_cosine) == (0.0, 0.5)
    pixels = Tally("pixels", Gate(tolerance=0))
    pixels.add("black", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8))
    assert pixels.result().min_cosine == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_breaks_every_gate(value):
    """NaN and infinity are the worst of all, and the report is JSON all the same."""
    stage = Tally("embedding", Gate(min_cosine=0.5))
    for number in range(5):
        stage.add(f"good-{number}", np.array([1.0, 2.0]), np.array([1.0, 2.1]))
    stage.add("bad", np.array([value, 2.0]), np.array([1.0, 2.0]))
    result = stage.result()
    assert not result.passed
    assert result.worst[0].image == "bad"
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["max_abs_error"] is None
    assert document["worst"][0]["max_abs_error"] is None


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0"), (1.2345e-5, "1.2e-05"), (255.0, "255"), (np.inf, "inf")])
def test_gray_levels_are_shown_as_whole_numbers(value, shown):
    """Small differences have two digits."""
    assert results.number(value) == shown
