"""The targets, decided from a report's file."""

import statistics
from random import Random

import pytest
from report import names
from report.median import confidence
from report.pages.tables import limit_images_per_s, tables
from report.pages.targets import Target, Verdict, verdicts


def speed(inputs_per_s, p50_ms=1.0, p99_ms=2.0):
    return {"inputs_per_s": inputs_per_s, "p50_ms": p50_ms, "p99_ms": p99_ms, "calls": 9}


@pytest.fixture
def document():
    """A report of two rounds, with what some of the targets ask for."""
    rounds = [
        {
            names.pipeline("fp32"): speed(5.0),
            names.pipeline("bf16"): speed(9.0),
            names.ours("fp32", 16): speed(fp32),
            names.ours("int8", 32): speed(int8, p99_ms=100.0),
            names.litserve("bf16", 32): speed(9.0, p99_ms=200.0),
            names.ours("int8", 1): speed(10.0, p50_ms=80.0),
            names.litserve("fp32", 1): speed(4.0, p50_ms=250.0),
            names.litserve("bf16", 1): speed(8.0, p50_ms=120.0),
        }
        for fp32, int8 in ((5.0, 14.0), (6.0, 16.0))
    ]
    return {
        "machine": {"cores": 2, "cpu": "a CPU", "gpu": None},
        "settings": {
            "device": "cpu",
            "fast": "int8",
            "peer_fast": "bf16",
            "callers": {"fp32": 16, "int8": 32},
            "batch": {names.pipeline("fp32"): 8},
        },
        "model": {"flop": 35e9},
        "limits": {
            "products": {"fp32": 175e9, "bf16": 350e9, "int8": 700e9},
            "memory_bytes_per_s": 1e10,
            "decoding": {"one_core": 500.0, "all_cores": 1000.0},
        },
        "rounds": rounds,
        "accuracy": {"Vitriton int8": 0.9976},
        "steady": [
            {"arrivals": "constant", "rate": 3.5, **speed(3.5, p99_ms=300.0), "alone_p50_ms": 200.0},
            {"arrivals": "poisson", "rate": 3.5, **speed(3.5, p99_ms=900.0), "alone_p50_ms": 200.0},
        ],
        "preprocessing": [
            {"inside_images_per_s": 900.0, "one_core_images_per_s": 500.0, "all_cores_images_per_s": 950.0}
        ],
        "large": {
            "size": [4000, 3000],
            "mean_bytes": 2_300_000,
            "worst_cosine": 0.9999,
            "rounds": [{"exact_s": 0.1, "scaled_s": 0.03}, {"exact_s": 0.09, "scaled_s": 0.03}],
        },
        "memory": {"weights": 340_000_000, "shared_once": 900_000_000, "sum": 990_000_000},
        "failed": {},
    }


def found(document, what):
    """The verdict whose text starts so."""
    return next(verdict for verdict in verdicts(document) if verdict.target.what.startswith(what))


@pytest.mark.parametrize(
    ("what", "median", "met"),
    [
        ("int8 / pipeline fp32", 3.0, True),
        ("int8 / pipeline bf16", 15 / 9, True),
        ("fp32 / pipeline fp32", 1.1, False),
        ("32 callers: p99, int8 / LitServe bf16", 0.5, True),
        ("1 caller: p50, int8 / LitServe at its best", 80 / 120, True),
        ("p99 at 70 %", 1.5, True),
        ("preprocessing inside", 0.9, True),
        ("JPEG of 12 megapixels", (10 / 3 + 3) / 2, True),
        ("memory", 900 / 1010, True),
    ],
)
def test_a_target_is_the_median_of_the_ratios(what, median, met, document):
    """Of those within a round, with the setting that was found to be best, against the best of the others."""
    verdict = found(document, what)
    assert verdict.median == pytest.approx(median)
    assert verdict.met is met


def test_what_was_not_measured_is_neither_met_nor_missed(document):
    """A page of an interrupted run says so."""
    verdict = found(document, "unpooled / pooled")
    assert (verdict.median, verdict.met, len(verdict.ratios)) == (None, None, 0)
    table = next(table for table in tables({**document, "sweep": []}) if table.title == "Targets")
    row = next(row for row in table.rows if row[0].startswith("unpooled"))
    assert row[2:] == ["not measured", "", "0", "?"]


def test_a_round_without_one_side_does_not_count(document):
    """As the last one of an interrupted run."""
    del document["rounds"][1][names.pipeline("fp32")]
    assert len(found(document, "int8 / pipeline fp32").ratios) == 1


@pytest.mark.parametrize(
    ("at_least", "ratios", "met"),
    [
        (True, [0.8, 1.0, 1.2], True),
        (True, [0.8, 0.9, 1.2], False),
        (False, [0.8, 1.0, 1.2], True),
        (False, [1.1], False),
    ],
)
def test_the_median_decides(at_least, ratios, met):
    """One lucky round does not."""
    target = Target(what="", bound=1.0, at_least=at_least, ratios=lambda document: [])
    assert Verdict(target=target, ratios=ratios).met is met


def test_the_limit_is_what_products_and_decoding_allow(document):
    """On a CPU the two share the cores: 35 GFLOP at 175 GFLOP/s and a millisecond of decoding."""
    assert limit_images_per_s(document, "ONNX Runtime fp32, ready pixels") == pytest.approx(5.0)
    assert limit_images_per_s(document, "Vitriton fp32, 32 callers") == pytest.approx(1 / 0.201)
    assert limit_images_per_s({**document, "limits": None}, "Vitriton fp32, 32 callers") is None


def test_a_gpu_has_targets_of_its_own(document):
    """Half of the matrix peak for the encoder alone, and three times the pipeline."""
    document["settings"] |= {"device": "gpu", "fast": "fp16", "peer_fast": "fp16"}
    assert [verdict.target.bound for verdict in verdicts(document)] == [0.5, 3.0]


def test_confidence():
    """The interval of a median has so many values on each side that it misses it once in twenty times; few give all."""
    assert confidence([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert confidence(range(101)) == (40, 60)
    random = Random(0)
    found = [confidence([random.gauss(0, 1) for _ in range(41)]) for _ in range(1000)]
    assert 0.93 < statistics.mean(low <= 0 <= high for low, high in found) < 0.98
