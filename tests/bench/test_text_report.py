"""The report on texts: its page, and a whole one of a small model."""

from __future__ import annotations

import json
from pathlib import Path

import compare
import pytest
from report import names
from report.pages.markdown import page
from report.pages.targets import verdicts
from report.plan import TextPlan
from report.sides.infinity import versions
from support import text_architectures
from typer.testing import CliRunner
from vitriton_bench._errors import BenchError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "texts.json"
PAGE = ROOT / "docs" / "benchmarks" / "texts.md"
INFINITY = ROOT / TextPlan.infinity
run = CliRunner().invoke


@pytest.mark.skipif(not RESULTS.is_file(), reason="no report on texts has been committed yet")
def test_the_page_is_made_of_the_committed_run():
    """Every figure of docs/benchmarks/texts.md is in the file of the run, which `make bench-texts` repeats."""
    assert page(json.loads(RESULTS.read_text()), {}) == PAGE.read_text()


def speed(inputs_per_s, p99_ms=2.0):
    return {"inputs_per_s": inputs_per_s, "p50_ms": 1.0, "p99_ms": p99_ms, "calls": 9}


def document(**more):
    """A report of one round."""
    round_ = {
        names.ours("fp32", 32): speed(140.0),
        names.ours("int8", 32): speed(190.0),
        names.infinity(32): speed(100.0, p99_ms=400.0),
        names.at_peers_rate("fp32"): speed(100.0, p99_ms=100.0),
        names.at_peers_rate("int8"): speed(100.0, p99_ms=500.0),
        names.pipeline("fp32"): speed(70.0),
    }
    texts = {"count": 2, "mean_tokens": 40.0, "least_tokens": 3, "most_tokens": 256, "padding": 1.125}
    return {
        "command": "python bench/compare.py --race text",
        "machine": {"cores": 2, "cpu": "a CPU", "gpu": None, "python": "3.11"},
        "versions": {},
        "settings": {"device": "cpu", "fast": "int8", "callers": 32, "batch": {names.pipeline("fp32"): 8}},
        "texts": texts,
        "rounds": [round_],
        "accuracy": {"infinity fp32": 0.5},
        "failed": {},
        **more,
    }


def test_targets_for_texts():
    """Speed beside infinity-emb, p99 at its rate; the ratios to the libraries have no bound."""
    found = {verdict.target.what: (verdict.median, verdict.met) for verdict in verdicts(document())}
    assert found == {
        "32 callers: fp32 / infinity fp32": (pytest.approx(1.4), True),
        "p99, fp32 at infinity's rate / infinity with 32 callers": (0.25, True),
        "32 callers: fp32 / sentence-transformers fp32": (None, None),
        "32 callers: fp32 / pipeline fp32": (2.0, None),
        "32 callers: int8 / infinity fp32": (1.9, False),
        "p99, int8 at infinity's rate / infinity with 32 callers": (1.25, False),
        "32 callers: int8 / sentence-transformers fp32": (None, None),
        "32 callers: int8 / pipeline fp32": (pytest.approx(190 / 70), None),
    }


def test_the_page_of_texts():
    """It speaks of texts, tokens and padding, and has no column of what images alone have."""
    made = page(document(infinity={"infinity-emb": "0.0.78"}), {})
    assert "2 texts of 3 to 256 tokens, 40 on average; padded, 1.12 times as many" in made
    assert "2 of 4 targets are met in this run." in made
    assert "| infinity fp32, 32 callers | server's | 100 | 100 to 100 | 1 | 400 | 0.50000 |" in made
    assert "infinity-emb 0.0.78" in made
    assert "images" not in made
    assert "LitServe" not in made
    assert "say nothing" not in made
    assert "other programs kept 9.5 cores busy" in page(document(load=9.53), {})


def test_infinity_in_no_environment():
    """The command that makes one is named."""
    with pytest.raises(BenchError, match="`make bench-texts` makes one"):
        versions(Path("/nonexistent/bin/infinity_emb"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model must be the folder of a checkpoint"),
        (["--model", "{tmp}/none"], "--model must be the folder of a checkpoint"),
        (["--model", "{tmp}", "--texts", "{tmp}/none.txt"], "none.txt does not exist"),
    ],
)
def test_what_it_cannot_compare(arguments, message, tmp_path):
    """A mistake on the command line is exit code 2, before anything is exported."""
    filled = [text.format(tmp=tmp_path) for text in arguments]
    done = run(compare.app, ["--race", "text", *filled], env={"COLUMNS": "1000"})
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())


@pytest.mark.long
def test_a_whole_report_of_a_small_model(torch, tmp_path):
    """Every side that is installed is measured, in turns, and its vectors are the reference's."""
    checkpoint, target, written = tmp_path / "bert", tmp_path / "texts.json", tmp_path / "texts.md"
    text_architectures.write("bert", checkpoint)
    tokenizer = checkpoint / "tokenizer_config.json"  # infinity-emb needs an older transformers, which has other names
    tokenizer.write_text(tokenizer.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    what = ["--race", "text", "--quick", "--minutes", "30", "--model", str(checkpoint), "--infinity", str(INFINITY)]
    done = run(compare.app, [*what, "--work", str(tmp_path / "w"), "--json", str(target), "--markdown", str(written)])
    assert done.exit_code == 0, done.output
    made = json.loads(target.read_text())
    expected = {names.ours("fp32", 4), names.ours("int8", 4), names.pipeline("fp32")}
    if "sentence-transformers" not in made["failed"]:
        expected |= {names.SENTENCES}
    if INFINITY.is_file():
        expected |= {names.infinity(4), names.at_peers_rate("fp32"), names.at_peers_rate("int8")}
    assert made["rounds"][0].keys() == expected
    assert made["failed"].keys() <= {"sentence-transformers", *([] if INFINITY.is_file() else ["infinity"])}
    assert all(cosine > (0.9 if "int8" in name else 0.9999) for name, cosine in made["accuracy"].items())
    assert 1 < made["texts"]["padding"] < 1.5
    assert written.read_text() == page(made, {})
