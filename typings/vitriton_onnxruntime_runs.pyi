"""The module beside the backend's model.py, as Triton finds it."""

from vitriton_server.backends.onnxruntime.vitriton_onnxruntime_runs import *  # noqa: F403 - the same names, whatever they are
