"""The limits of the machine: matrix products at each precision, memory bandwidth, and Pillow on every core."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from vitriton.preprocessing import PreprocessSpec, preprocess

from report.sides.onnx_runtime import onnx_session

# The products of a ViT-B's layers with the tokens of 8 images, and a square one.
_SHAPES = ((1576, 768, 3072), (1576, 3072, 768), (2048, 2048, 2048))
_GPU_SHAPES = ((8192, 8192, 8192), (12608, 768, 3072))
_COPIED_BYTES = 256 * 2**20  # more than any cache
_MIN_LOOK_S = 0.2

Product = Callable[[int, int, int], Callable[[], object]]


def matrix_products(seconds: float, cores: int, gpu: bool) -> dict[str, float]:
    """Measures operations a second by precision, the best of several shapes; a multiply-add counts as two.

    Args:
        seconds: the time for all products together.
        cores: the number of threads on a CPU.
        gpu: whether to measure the GPU instead.
    """
    torch.set_num_threads(cores)
    products, shapes = _products(cores, gpu), _GPU_SHAPES if gpu else _SHAPES
    each = seconds / len(products) / len(shapes)
    return {
        name: max(2.0 * m * k * n / _fastest(product(m, k, n), each) for m, k, n in shapes)
        for name, product in products.items()
    }


def memory(seconds: float, gpu: bool) -> float:
    """Measures the bytes a second of a copy, read and written bytes together."""
    source = torch.ones(_COPIED_BYTES // 4, device="cuda" if gpu else "cpu")
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / _fastest(lambda: _synchronized(target.copy_(source)), seconds)


def decoding(
    images: Sequence[bytes],
    spec: PreprocessSpec,
    seconds: float,
    cores: int,
    of: Callable[[list[float]], float] = min,
) -> dict[str, float]:
    """Measures images a second from encoded bytes to pixels, on one core and on all cores together.

    Args:
        images: the encoded images.
        spec: the steps of preprocessing.
        seconds: the time for both measurements together.
        cores: the number of threads of the second measurement.
        of: the function that picks one of several times; by default the lowest, since a limit is what is possible.
    """
    one = len(images) / of(_times(lambda: [preprocess(image, spec) for image in images], seconds / 2))
    several = list(images) * cores
    with ThreadPoolExecutor(cores) as threads:
        took = of(_times(lambda: list(threads.map(lambda image: preprocess(image, spec), several)), seconds / 2))
    return {"one_core": one, "all_cores": len(several) / took}


def _fastest(call: Callable[[], object], seconds: float) -> float:
    return min(_times(call, seconds))


def _times(call: Callable[[], object], seconds: float) -> list[float]:
    call()
    taken, started = [], time.perf_counter()
    while True:
        begun = time.perf_counter()
        call()
        ended = time.perf_counter()
        taken.append(ended - begun)
        if ended - started >= max(seconds, _MIN_LOOK_S):
            return taken


def _synchronized(value: torch.Tensor) -> torch.Tensor:
    if value.is_cuda:
        torch.cuda.synchronize()
    return value


def _products(cores: int, gpu: bool) -> dict[str, Product]:
    device = "cuda" if gpu else "cpu"
    products: dict[str, Product] = {
        "fp32": lambda *shape: _torch_product(torch.float32, device, *shape),
        "bf16": lambda *shape: _torch_product(torch.bfloat16, device, *shape),
    }
    if not gpu:
        return {**products, "int8": lambda *shape: _onnx_int8_product(cores, *shape)}
    products["fp16"] = lambda *shape: _torch_product(torch.float16, device, *shape)
    products["tf32"] = _tf32_product
    return {**products, "int8": _cuda_int8_product}


def _torch_product(dtype: torch.dtype, device: str, m: int, k: int, n: int) -> Callable[[], object]:
    left, weights = torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)
    return lambda: _synchronized(torch.nn.functional.linear(left, weights))


def _tf32_product(m: int, k: int, n: int) -> Callable[[], object]:
    """A product of float32 whose factors a GPU rounds to ten bits."""
    product = _torch_product(torch.float32, "cuda", m, k, n)

    def rounded() -> object:
        torch.set_float32_matmul_precision("high")
        try:
            return product()
        finally:
            torch.set_float32_matmul_precision("highest")

    return rounded


def _cuda_int8_product(m: int, k: int, n: int) -> Callable[[], object]:
    left, right = (torch.ones(*shape, dtype=torch.int8, device="cuda") for shape in ((m, k), (k, n)))
    return lambda: _synchronized(torch._int_mm(left, right))


def _onnx_int8_product(cores: int, m: int, k: int, n: int) -> Callable[[], object]:
    """A product by ONNX Runtime's int8 kernels, as in exported graphs: unsigned activations, signed weights."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = numpy_helper.from_array(random.integers(-127, 128, (k, n)).astype(np.int8), "weights")
    zero = numpy_helper.from_array(np.array(128, np.uint8), "zero")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "weights", "zero"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, [m, k])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [m, n])],
        [weights, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnx_session(model.SerializeToString(), cores, gpu=False)
    left = random.integers(0, 256, (m, k)).astype(np.uint8)
    return lambda: session.run(None, {"left": left})
