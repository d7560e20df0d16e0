"""The choice of the lengths to which texts are padded: padding, shapes and texts/s, in ONNX Runtime on one core.

    python bench/text_lengths.py [--model out/model_repository/NAME_text_pooled_encoder/1/model.onnx] [--texts 640]
                                 [--callers 32] [--longest 512] [--batch 8] [--rounds 5]

Texts have long-tailed numbers of tokens: most are short, and few reach the longest. Each caller waits for the answer to
its text before it sends the next one. The encoder takes the oldest request, and with it those that wait with the same
padded length, as Triton's dynamic batcher does. Without `--model`, the program counts tokens only. The choices take
turns; the time is the processor's, of one thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from vitriton_export.triton.tokenize.vitriton_tokenizing import padded_length

Length = Callable[[int], int]
CORE_TOKENS = 256  # of one run, as in the onnxruntime backend


def octaves(number: int, smallest: int = 4) -> Length:
    """Pads to some lengths in each octave, which are multiples of the smallest step."""

    def padded(length: int) -> int:
        octave = 1 << max(0, length - 1).bit_length()
        step = max(smallest, octave // 2 // number)
        return -(-length // step) * step

    return padded


def multiples(step: int) -> Length:
    """Pads to multiples."""
    return lambda length: -(-length // step) * step


CHOICES: dict[str, Length] = {
    "as served": padded_length,
    "none": lambda length: length,
    "2 an octave": octaves(2),
    "8 an octave": octaves(8),
    "multiples of 8": multiples(8),
    "multiples of 16": multiples(16),
    "multiples of 32": multiples(32),
}


def lengths(texts: int, longest: int) -> list[int]:
    """Returns numbers of tokens from 3 to the longest, with a median near 32 (log-normal); always the same."""
    drawn = np.random.default_rng(0).lognormal(np.log(32), 1.0, texts)
    return [int(length) for length in np.clip(drawn, 3, longest)]


def batches(sent: list[int], callers: int, batch: int) -> Iterator[list[int]]:
    """Yields the padded lengths of the texts that the encoder computes together, until all are answered."""
    coming = deque(sent)
    waiting = deque(coming.popleft() for _ in range(min(callers, len(coming))))
    while waiting:
        taken = [length for length in waiting if length == waiting[0]][:batch]
        for length in taken:
            waiting.remove(length)
        yield taken
        waiting.extend(coming.popleft() for _ in range(min(len(taken), len(coming))))


def compute(session: ort.InferenceSession, rows: int, length: int) -> None:
    """Runs rows of this length, as many at a time as the backend takes."""
    ids: npt.NDArray[np.int64] = np.full((rows, length), 7, np.int64)
    mask = np.ones_like(ids)
    step = max(1, CORE_TOKENS // length)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        session.run(None, {"input_ids": ids[part], "attention_mask": mask[part]})


def loaded(path: Path) -> ort.InferenceSession:
    """Returns the graph in a session of one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(path, options, ["CPUExecutionProvider"])


def main() -> None:
    """Measures, and prints a line for each choice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="the encoder's model.onnx")
    parser.add_argument("--texts", type=int, default=640)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--longest", type=int, default=512, help="the number of tokens at which texts are cut")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    drawn = lengths(arguments.texts, arguments.longest)
    made = {
        name: list(batches([min(pad(n), arguments.longest) for n in drawn], arguments.callers, arguments.batch))
        for name, pad in CHOICES.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in made}
    if arguments.model is not None:
        session = loaded(arguments.model)
        for number in range(arguments.rounds + 1):
            for name, runs in made.items():
                started = time.process_time()
                for run in runs:
                    compute(session, len(run), run[0])
                if number:  # the first round warms up
                    seconds[name].append(time.process_time() - started)
    for name, runs in made.items():
        total = sum(map(sum, runs))
        line = f"{name:<16} padding {1 - sum(drawn) / total:4.0%}  lengths {len({run[0] for run in runs}):3}"
        line += f"  texts in a batch {len(drawn) / len(runs):4.1f}"
        if own := seconds[name]:
            ratios = [served / one for served, one in zip(seconds["as served"], own, strict=True)]
            line += f"  {len(drawn) / statistics.median(own):6.1f} texts/s  {statistics.median(ratios):5.2f} x"
            line += f"  ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)


if __name__ == "__main__":
    main()
