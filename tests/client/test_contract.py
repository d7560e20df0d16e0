import re

import numpy as np
import pytest
from vitriton import ContractMismatch
from vitriton._served.contract import read_contract, read_reply
from vitriton._served.index import explain_not_ready, is_ready, served_models
from vitriton._wire.transport import ModelConfig, ModelStatus, TensorSpec
from vitriton.testing import InferReply

IMAGE = {"image": TensorSpec(datatype="BYTES", shape=(1,))}
EMBEDDING = {"embedding": TensorSpec(datatype="FP32", shape=(2,))}


def config(**changes):
    values = {"name": "m_pooled", "max_batch_size": 8, "inputs": IMAGE, "outputs": EMBEDDING}
    return ModelConfig(**(values | changes))


def reply(**changes):
    values = {"name": "embedding", "datatype": "FP32", "shape": (3, 2), "data": bytes(24)}
    return InferReply(**(values | changes))


def status(name, state="READY", reason=""):
    return ModelStatus(name=name, ready=state == "READY", state=state, reason=reason)


def test_contract():
    """Shape, batch size and fingerprint come from the configuration."""
    contract = read_contract(config(parameters={"fingerprint": "f"}), "pooled")
    assert (contract.shape, contract.max_batch_size, contract.fingerprint) == ((2,), 8, "f")
    assert contract.dtype == np.float32
    assert contract.empty(np.dtype(np.float16)).shape == (0, 2)


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"inputs": {}}, "pooled", "no input 'image'"),
        ({"inputs": {"image": TensorSpec(datatype="FP32", shape=(1,))}}, "pooled", "no input 'image'"),
        ({}, "unpooled", "no output 'last_hidden_state', only embedding"),
        ({"outputs": {"embedding": TensorSpec(datatype="INT8", shape=(2,))}}, "pooled", "INT8"),
        ({"max_batch_size": 0}, "pooled", "max_batch_size is 0"),
    ],
)
def test_other_models(changes, kind, says):
    """A model that is not ours is refused by what is missing."""
    with pytest.raises(ContractMismatch, match="not made by `vitriton export`") as caught:
        read_contract(config(**changes), kind)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "other"}, "other FP32 [3, 2]"),
        ({"datatype": "INT64"}, "INT64"),
        ({"shape": (2, 2)}, "[2, 2]"),
        ({"shape": (3, 4)}, "[3, 4]"),
        ({"shape": (3, 2, 1)}, "[3, 2, 1]"),
        ({"data": b""}, "0 bytes for FP32 [3, 2], which needs 24; is there a numpy 2"),
    ],
)
def test_other_replies(changes, says):
    """A reply of another name, type, shape or length is never taken for the answer."""
    contract = read_contract(config(), "pooled")
    with pytest.raises(ContractMismatch) as caught:
        read_reply(reply(**changes), contract, 3)
    assert says in str(caught.value)


def test_open_dimensions():
    """A dimension that the configuration leaves open takes any size."""
    outputs = {"last_hidden_state": TensorSpec(datatype="FP16", shape=(-1, 2))}
    contract = read_contract(config(outputs=outputs), "unpooled")
    halves = np.arange(12, dtype=np.float16)
    result = read_reply(
        InferReply(name="last_hidden_state", datatype="FP16", shape=(2, 3, 2), data=halves.tobytes()), contract, 2
    )
    assert result.dtype == np.float16
    assert result.tolist() == halves.reshape(2, 3, 2).tolist()
    assert contract.empty(np.dtype(np.float32)).shape == (0, 0, 2)


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"max_batch_size": 16}, True),
        ({"max_batch_size": 4}, False),
        ({"parameters": {"fingerprint": "g"}}, False),
        ({"outputs": {"embedding": TensorSpec(datatype="FP32", shape=(3,))}}, False),
        ({"outputs": {"embedding": TensorSpec(datatype="FP16", shape=(2,))}}, False),
    ],
)
def test_servers_that_stand_in(changes, accepted):
    """A server may answer for another if its vectors lie in the same space and it takes the same requests."""
    first = read_contract(config(parameters={"fingerprint": "f"}), "pooled")
    other = read_contract(config(**({"parameters": {"fingerprint": "f"}} | changes)), "pooled")
    assert first.accepts(other) is accepted


def test_served_models():
    """Ensembles are listed once, by the name that the client takes; their parts are not."""
    index = [status(name) for name in ("b_pooled", "b_unpooled", "a_unpooled", "b_preprocess", "b_pooled_encoder", "x")]
    assert served_models(index) == ("a", "b")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (None, "no model m that is ready, and does not list"),
        ([], "does not have model m; it has: no model that `vitriton export` made"),
        ([status("a_pooled"), status("b_unpooled")], "does not have model m; it has: a, b"),
        ([status("m_unpooled")], "without its pooled output: .* only the unpooled one.* embed\\(pool=False\\)"),
        (
            [status("m_pooled", "UNAVAILABLE", "no memory")],
            "model m is .* its pooled output is not ready: UNAVAILABLE \\(no memory\\)",
        ),
        ([status(f"n{number:02}_pooled") for number in range(30)], "n00, .*n19 and 10 more"),
    ],
)
def test_explanations(index, says):
    """Why a model cannot be used, and what can be."""
    text = explain_not_ready("m", "pooled", index, "grpc://h:8001")
    assert re.search(says, text), text


@pytest.mark.parametrize(
    ("ready", "index", "expected"),
    [
        (["pooled", "unpooled"], None, True),
        ([], [], False),
        (["pooled"], None, True),
        (["pooled"], [status("m_pooled")], True),
        (["pooled"], [status("m_unpooled", "LOADING")], False),
        (["unpooled"], [status("m_pooled", "UNAVAILABLE")], True),
    ],
)
def test_readiness(ready, index, expected):
    """A model is ready when nothing of it is still loading."""
    assert is_ready("m", ready, index) is expected
