"""A module that lies beside the onnxruntime backend, which imports it by its own name."""

from vitriton_server.backends.onnxruntime.vitriton_onnxruntime_shared import *  # noqa: F403 - the same names, whatever they are
