"""Serves models for the tests of the adapters, from the product's own environment, until its input ends.

It prints one line of JSON: the addresses of two Tritons. The first has trained models, `photos` for images and `texts`
for texts, and tiny ones, `clip` and `both` (images and texts) and `words` (texts, with prompts). The second has another
`photos`.
"""

import json
import sys
import tempfile
from pathlib import Path

from client.conftest import write_model
from client.test_texts_server import write_text_model
from support import checkpoints, exports, trained_minilm, two_towers
from vitriton_server import TritonServer


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vitriton-") as folder:
        repository, other = Path(folder) / "models", Path(folder) / "other"
        exports.export(checkpoints.trained_dinov2_small(), repository, name="photos", outputs="pooled")
        exports.export(trained_minilm.checkpoint(), repository, name="texts", outputs="pooled")
        towers = two_towers.write("clip", Path(folder) / "clip")
        exports.export(towers, repository, name="clip", outputs="pooled")
        write_model(repository, "both_pooled", fingerprint="space-1")
        for name in ("both_text_pooled", "words_text_pooled"):
            write_text_model(repository, name)
        write_model(other, "photos_pooled", fingerprint="space-2")
        with TritonServer(repository) as server, TritonServer(other) as another:
            print(json.dumps({"server": server.grpc_address, "another": another.grpc_address}), flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    main()
