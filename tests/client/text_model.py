"""The model of texts of the tests' repository: its configuration. tiny_text_model.py is its code."""

import json
import shutil
from pathlib import Path

import vitriton.preprocessing.refusals

MAX_LENGTH = 8
PROMPTS = {"query": "1 query: ", "passage": "2 passage: "}
CONFIG = """
backend: "python"
max_batch_size: 32
input {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "{output}" data_type: TYPE_FP32 dims: [ {dims} ] }}
output {{ name: "token_counts" data_type: TYPE_INT32 dims: [ 2 ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
dynamic_batching {{ }}
"""
PARAMETERS = {
    "fingerprint": "space-1",
    "pooling": "mean",
    "precision": "fp32",
    "tokenize": json.dumps({"max_length": MAX_LENGTH, "max_text_bytes": 1000, "truncation_side": "right"}),
    "prompts": json.dumps(PROMPTS),
}


def write_text_model(repository: Path, name: str) -> None:
    """A model that takes texts (tiny_text_model.py)."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("tiny_text_model.py"), version / "model.py")
    shutil.copy(vitriton.preprocessing.refusals.__file__, version / "vitriton_refusals.py")
    pooled = name.endswith("_text_pooled")
    text = CONFIG.format(output="embedding" if pooled else "last_hidden_state", dims="3" if pooled else "-1, 2")
    for key, value in PARAMETERS.items():
        text += f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}\n"
    (version.parent / "config.pbtxt").write_text(text)
