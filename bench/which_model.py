"""The size and the cost of common models, for docs/guides/which-model.md.

    python bench/which_model.py                               # computes what their configurations tell, in a minute
    python bench/which_model.py --measure                     # exports and serves all of them, and measures images/s
    python bench/which_model.py --measure dinov2-small ...    # only these

Parameters, tokens, dimensions and arithmetic are read off a model without weights (torch's meta device). `--measure`
takes random weights, as speed does not depend on them: it exports each model pooled, in float32 and int8, and lets the
two take turns through one real Triton. Figures that are not measured anew stay in the file of results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitriton_bench import _machine
from vitriton_bench._document import significant, write_text
from vitriton_export._options import Precision

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "which-model.md"
RESULTS = ROOT / "bench" / "results" / "which_model.json"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_TABLE = re.compile(r"(?<=<!-- made by bench/which_model.py -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Model:
    """A model by its configuration; what is left out is as transformers' default.

    Attributes:
        id: the model's id on the hub.
        classes: the names of transformers' classes of configuration and model.
        settings: the settings of the configuration.
        size: the side of its images, in pixels.
        dim: the dimensions of the embedding, where they are not those of the tokens.
    """

    id: str
    classes: tuple[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    size: int = 224
    dim: int | None = None

    @property
    def name(self) -> str:
        """The last part of the id."""
        return self.id.split("/")[1]


def _transformer(width: int, layers: int, patch: int = 16, **more: Any) -> dict[str, Any]:
    """The settings of a vision transformer, whose heads have 64 numbers and whose MLP is four times as wide."""
    wide = {"intermediate_size": 4 * width} if "mlp_ratio" not in more else {}
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    return sizes | {"patch_size": patch} | wide | more


_VIT = ("ViTConfig", "ViTModel")
_DINOV2 = ("Dinov2Config", "Dinov2Model")
_CLIP = ("CLIPVisionConfig", "CLIPVisionModelWithProjection")
_SIGLIP = ("SiglipVisionConfig", "SiglipVisionModel")
# Their settings are those of the config.json on the hub.
MODELS = (
    Model("facebook/deit-small-patch16-224", _VIT, _transformer(384, 12)),
    Model("google/vit-base-patch16-224", _VIT, _transformer(768, 12)),
    Model("google/vit-large-patch16-224", _VIT, _transformer(1024, 24)),
    Model("facebook/dinov2-small", _DINOV2, _transformer(384, 12, 14, mlp_ratio=4, image_size=518)),
    Model("facebook/dinov2-base", _DINOV2, _transformer(768, 12, 14, mlp_ratio=4, image_size=518)),
    Model("facebook/dinov2-large", _DINOV2, _transformer(1024, 24, 14, mlp_ratio=4, image_size=518)),
    Model("openai/clip-vit-base-patch32", _CLIP, _transformer(768, 12, 32, projection_dim=512), dim=512),
    Model("openai/clip-vit-base-patch16", _CLIP, _transformer(768, 12, 16, projection_dim=512), dim=512),
    Model("openai/clip-vit-large-patch14", _CLIP, _transformer(1024, 24, 14, projection_dim=768), dim=768),
    Model("google/siglip-base-patch16-224", _SIGLIP, _transformer(768, 12)),
    Model("microsoft/swin-tiny-patch4-window7-224", ("SwinConfig", "SwinModel")),
    Model("facebook/convnext-tiny-224", ("ConvNextConfig", "ConvNextModel")),
)


def sizes(model: Model) -> dict[str, Any]:
    """Computes what a model's configuration tells, without weights."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        made = _made(model)
        pixels = torch.empty(1, 3, model.size, model.size)
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(), counter:
            tokens = made(pixel_values=pixels).last_hidden_state
    dimensions = tokens.shape[1] if tokens.ndim == 4 else tokens.shape[2]
    return {
        "id": model.id,
        "size": model.size,
        "parameters": sum(weight.numel() for weight in made.parameters()),
        "flop": counter.get_total_flops(),
        "tokens": tokens.shape[2] * tokens.shape[3] if tokens.ndim == 4 else tokens.shape[1],
        "dim": model.dim or dimensions,
    }


def _made(model: Model) -> Any:
    """The model as transformers makes it, without the pooler that a classifier's checkpoint does not hold."""
    import transformers

    config_class, model_class = (getattr(transformers, name) for name in model.classes)
    config = config_class(**model.settings)
    config._attn_implementation = "eager"
    bare = {"add_pooling_layer": False} if model_class is transformers.ViTModel else {}
    return model_class(config, **bare).eval()


def measure(model: Model, folder: Path, images: list[bytes], rounds: int) -> dict[str, float]:
    """Measures images/s of a model in each precision, the median over rounds in which the precisions take turns."""
    from vitriton import Client
    from vitriton_server import TritonServer

    _export(model, folder)
    speeds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with TritonServer(folder / "models") as server:
        for number, precision in itertools.product(range(rounds + 1), PRECISIONS):
            with Client(server.grpc_address, model=precision, timeout_s=600) as client:
                client.wait_ready()
                started = time.perf_counter()
                client.embed(images)
                if number:  # the first round warms up
                    speeds[precision].append(len(images) / (time.perf_counter() - started))
    return {precision: statistics.median(own) for precision, own in speeds.items()}


def _export(model: Model, folder: Path) -> None:
    """Exports a model with random weights in each precision, unless that is done."""
    import torch
    from transformers import ViTImageProcessorPil
    from vitriton_export import ExportOptions, export_model

    checkpoint = folder / "checkpoint"
    if not (checkpoint / "preprocessor_config.json").is_file():  # written last
        torch.manual_seed(0)
        _made(model).save_pretrained(checkpoint)
        ViTImageProcessorPil(size={"height": model.size, "width": model.size}).save_pretrained(checkpoint)
    for precision in PRECISIONS:
        if (folder / "models" / f"{precision}_pooled").exists():
            continue
        export_model(
            ExportOptions(
                model=str(checkpoint),
                repository=folder / "models",
                name=precision,
                outputs="pooled",
                precision=precision,
                min_cosine=0.01,  # how near int8 comes to random weights says nothing
            )
        )


def table(document: Mapping[str, Any]) -> str:
    """The table of the page."""
    models = document["models"]
    measured = any("images_per_s" in entry for entry in models)
    head = ["model", "image", "parameters", "weights, fp32", "GFLOP an image", "tokens", "dimensions", "vector, fp32"]
    head += [f"images/s, {precision}" for precision in PRECISIONS] if measured else []
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for entry in models:
        speeds = entry.get("images_per_s", {})
        rows.append(
            [
                f"`{entry['id']}`",
                f"{entry['size']} × {entry['size']}",
                f"{entry['parameters'] / 1e6:.0f} M",
                f"{entry['parameters'] * 4 / 1e6:.0f} MB",
                f"{entry['flop'] / 1e9:.1f}",
                str(entry["tokens"]),
                str(entry["dim"]),
                f"{entry['dim'] * 4} bytes",
                *([f"{speeds[one]:.1f}" if one in speeds else "" for one in PRECISIONS] if measured else []),
            ]
        )
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    machine = document.get("machine")
    if not machine:
        return text
    note = (
        f"The images/s are measured on {machine['cpu']}, {machine['cores']} cores, with one caller who sends 8 photos "
        "at a time, and with random weights: the speed does not depend on their values. Use them to compare models "
        "with each other; another machine has other figures."
    )
    return f"{text}\n\n{textwrap.fill(note, 120)}"


def main() -> None:
    """Computes and measures, writes the results and the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--measure", nargs="*", metavar="NAME", help="measure the images/s of these models; without a name, of all"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("out/which-model"), help="folder of checkpoints and exports"
    )
    parser.add_argument("--images", type=Path, default=ROOT / "examples" / "photos", help="folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=21, help="number of rounds in which the precisions take turns")
    arguments = parser.parse_args()
    names = [model.name for model in MODELS]
    measured = names if arguments.measure == [] else arguments.measure or []
    if unknown := sorted(set(measured) - set(names)):
        parser.error(f"--measure {', '.join(unknown)}: there is no such model; choose from {', '.join(names)}")
    before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"models": []}
    known = {entry["id"]: entry.get("images_per_s") for entry in before["models"]}
    images = [path.read_bytes() for path in sorted(arguments.images.glob("*.jpg"))[:8]]
    document: dict[str, Any] = {"models": []}
    for model in MODELS:
        entry = sizes(model)
        speeds = known.get(model.id)
        if model.name in measured:
            speeds = measure(model, arguments.folder / model.name, images, arguments.rounds)
        document["models"].append(entry | ({"images_per_s": speeds} if speeds else {}))
        print(table({"models": document["models"][-1:]}).splitlines()[-1], flush=True)
    machine = _machine.describe() if measured else before.get("machine")
    document |= {"machine": machine} if machine else {}
    document = significant(document)
    write_text(json.dumps(document, indent=1) + "\n", RESULTS)
    PAGE.write_text(_TABLE.sub(lambda _: table(document), PAGE.read_text()))


if __name__ == "__main__":
    main()
