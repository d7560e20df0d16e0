"""The model of the tests of shared memory: 2 MiB an image, in place of a network. Runs inside Triton."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        orders = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()[:, 0]
        if b"refuse" in orders:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("no", pb_utils.TritonError.INVALID_ARG))
        tokens = np.empty((len(orders), 1024, 512), np.float32)
        for row, order in zip(tokens, orders, strict=True):
            value, _, seconds = order.partition(b":")
            time.sleep(float(seconds or 0))
            row[:] = float(value)
        return pb_utils.InferenceResponse([pb_utils.Tensor("last_hidden_state", tokens)])
