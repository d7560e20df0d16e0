"""The names of tensors that exporter, parity gate and client agree on."""

from __future__ import annotations

from vitriton_export._options import Kind

TENSOR: dict[Kind, str] = {"pooled": "embedding", "unpooled": "last_hidden_state"}
