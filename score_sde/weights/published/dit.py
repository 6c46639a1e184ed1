"""DiT: its published configurations and the tensors of its files (Peebles 2023)."""

from __future__ import annotations

from score_sde.networks import DiT
from score_sde.weights.published.publication import Published
from score_sde.weights.published.tensors import CONV, Tensor, linear


def configurations() -> dict[str, Published]:
    """Configurations of Peebles and Xie 2023, table 1: latents, a linear chain."""
    sizes = {
        "S": dict(hidden_size=384, depth=12, num_heads=6),
        "B": dict(hidden_size=768, depth=12, num_heads=12),
        "L": dict(hidden_size=1024, depth=24, num_heads=16),
        "XL": dict(hidden_size=1152, depth=28, num_heads=16),
    }
    released = {
        "DiT-XL-2-256px": "DiT-XL-2-256x256.pt",
        "DiT-XL-2-512px": "DiT-XL-2-512x512.pt",
    }
    kinds = [(size, p, 256) for size in sizes for p in (2, 4, 8)] + [("XL", 2, 512)]
    made = {}
    for size, patch_size, side in kinds:
        name = f"DiT-{size}-{patch_size}-{side}px"
        options = dict(sizes[size], patch_size=patch_size, num_classes=1000)
        made[f"dit/{name}"] = Published(
            "dit",
            options,
            (side // 8, side // 8, 4),
            "chain",
            0.01,
            157.4,
            num_levels=0,
            file=released.get(name, ""),
        )
    return made


def tensors(module: DiT, shape: tuple[int, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
    """Entries of a published state dict; they depend on no side of the image."""
    entries = [
        Tensor("pos_embed", ("pos_embed",), frozen=True),
        Tensor("x_embedder.proj.weight", ("x_embedder", "kernel"), CONV),
        Tensor("x_embedder.proj.bias", ("x_embedder", "bias")),
        *linear("t_embedder.mlp.0", "t_embedder_mlp_0"),
        *linear("t_embedder.mlp.2", "t_embedder_mlp_2"),
    ]
    if module.num_classes:
        name = "y_embedder.embedding_table.weight"
        entries.append(Tensor(name, ("y_embedder", "embedding")))
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    for i in range(module.depth):
        there, here = f"blocks.{i}", f"blocks_{i}"
        for layer in layers:
            entries += linear(f"{there}.{layer}", here, layer.replace(".", "_"))
        entries += linear(f"{there}.adaLN_modulation.1", here, "adaLN_modulation")
    entries += linear("final_layer.linear", "final_layer", "linear")
    name = "final_layer.adaLN_modulation.1"
    entries += linear(name, "final_layer", "adaLN_modulation")
    return tuple(entries)
