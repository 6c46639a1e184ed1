"""EDM2: its published configurations and the tensors of its files (Karras 2024)."""

from __future__ import annotations

from score_sde.networks import EDM2
from score_sde.networks.unet_plan import PlannedBlock
from score_sde.weights.published.publication import Published
from score_sde.weights.published.tensors import CONV, LINEAR, POINTWISE, Tensor


def configurations() -> dict[str, Published]:
    """Configurations of Karras et al. 2024 for ImageNet, in pixels or latents."""
    widths = dict(xxs=64, xs=128, s=192, m=256, l=320, xl=384, xxl=448)
    made = {}
    for size, channels in widths.items():
        dropout = 0.0 if channels < 256 else 0.1
        kinds = [("img512", 4, 1000, "")]
        if size not in ("xxs", "xxl"):
            kinds.append(("img64", 3, 1000, ""))
        if size in ("xxs", "xs", "s"):
            kinds.append(("img512", 4, 0, "-uncond"))
        for data, depth, num_classes, end in kinds:
            name = f"edm2-{data}-{size}{end}"
            options = dict(channels=channels, num_classes=num_classes, dropout=dropout)
            levels = 256 if data == "img64" else 0
            made[f"edm2/{name}"] = Published(
                "edm2",
                options,
                (64, 64, depth),
                "edm",
                0.002,
                80.0,
                num_levels=levels,
                # For the smallest, only the settings of its training are known.
                file="" if size == "xxs" else f"{name}-*.pkl",
            )
    return made


def tensors(module: EDM2, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Entries of a published snapshot for images of this shape."""
    steps = module.plan(shape[0])
    fourier = [
        ("emb_fourier.freqs", ("emb_fourier", "freqs")),
        ("emb_fourier.phases", ("emb_fourier", "phases")),
    ]
    entries = [Tensor("unet.out_gain", ("out_gain",))]
    entries += [Tensor(f"unet.{name}", path, frozen=True) for name, path in fourier]
    for name in ("emb_noise", *(["emb_label"] if module.num_classes else [])):
        entries.append(Tensor(f"unet.{name}.weight", (name, "weight"), LINEAR))
    at = f"{shape[0]}x{shape[0]}_conv"
    entries.append(Tensor(f"unet.enc.{at}.weight", (f"enc_{at}", "weight"), CONV))
    for part, blocks in (("enc", steps.encoder), ("dec", steps.decoder)):
        for step in blocks:
            entries += _block_tensors(part, step)
    entries += [
        Tensor("unet.out_conv.weight", ("out_conv", "weight"), CONV),
        Tensor("logvar_fourier.freqs", ("logvar", "fourier", "freqs"), frozen=True),
        Tensor("logvar_fourier.phases", ("logvar", "fourier", "phases"), frozen=True),
        Tensor("logvar_linear.weight", ("logvar", "linear", "weight"), LINEAR),
    ]
    return tuple(entries)


def _block_tensors(part: str, step: PlannedBlock) -> list[Tensor]:
    """Entries of a block of the encoder or the decoder."""
    there, here = f"unet.{part}.{step.name}", f"{part}_{step.name}"
    layers = {"conv_res0": CONV, "emb_linear": LINEAR, "conv_res1": CONV}
    if step.reads != step.width:
        layers["conv_skip"] = POINTWISE
    if step.attends:
        layers |= {"attn_qkv": POINTWISE, "attn_proj": POINTWISE}
    return [Tensor(f"{there}.emb_gain", (here, "emb_gain"))] + [
        Tensor(f"{there}.{name}.weight", (here, name, "weight"), layout)
        for name, layout in layers.items()
    ]
