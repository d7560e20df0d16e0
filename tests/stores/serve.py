"""Serves two tiny models of different spaces until its input ends, from the product's own environment.

It prints the address of the Triton.
"""

import sys
import tempfile
from pathlib import Path

from client.conftest import write_model
from vitriton_server import TritonServer


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vitriton-") as folder:
        write_model(Path(folder), "tiny_pooled", fingerprint="space-1")
        write_model(Path(folder), "other_pooled", fingerprint="space-2")
        with TritonServer(Path(folder)) as server:
            print(server.grpc_address, flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    main()
