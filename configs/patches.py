"""32x32 colour patches of two photographs, 256 levels.

    score-sde train --config=patches --workdir=runs/patches

The same program as for CIFAR-10, at a size for a CPU: about an hour on two cores. Test
patches are cut from regions of the photographs that training never sees.

patches:vdm trains by the variational bound with a learned noise schedule, on
the centres of the levels (Kingma et al. 2021); a bin is six sigma wide at t_min.
patches:coarse and patches:details are the stages of a cascade over wavelets, trained
alike:

    score-sde likelihood --workdir=runs/patches_details
        --config.companions.low_resolution.run=runs/patches_coarse
"""

from ml_collections import ConfigDict, FieldReference

VARIANTS = ("", "vdm", "coarse", "details")


def get_config(variant: str = "") -> ConfigDict:
    """The config, a section per object, of the default run or of a variant."""
    config = default()
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose from {[*VARIANTS]}.")
    if variant:
        config.data.points = "centres"
        config.sde.t_min = 0.0013
        # One period per two grey levels, and per one, in what the network sees.
        config.network.input_frequencies = (64.0, 128.0)
        config.noise_levels = {"name": "learned", "stratified": True}
        config.weight = {"name": "noise"}
        config.likelihood.dequantisation = "truncated_normal"
    if variant in ("coarse", "details"):
        config.data.update(name="wavelet", source={"name": "patches"}, part=variant)
    if variant == "coarse":
        # Of the same noise of the pixels: half as much in means of four.
        config.sde.t_min /= 2
        config.data.sigma_data = 0.635
        # One period per level of a pixel, and per level of a mean.
        config.network.input_frequencies = (162.56, 650.24)
    if variant == "details":
        config.data.sigma_data = 0.128
        config.network.input_frequencies = (16.384, 32.768)
        config.conditions = {"coarse": {}}
    return config.lock()


def default() -> ConfigDict:
    """The config of the default run."""
    num_steps = FieldReference(4_000)
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "patches",
                "batch_size": 32,
                "random_flip": True,
                "sigma_data": 0.5,
            },
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "network": {
                "name": "unet",
                "channels": 32,
                "multipliers": (1, 2, 2),
                "blocks_per_level": 2,
                "attention_resolutions": (8,),
                "dropout": 0.05,
                "input_frequencies": (),
            },
            "precondition": {"name": "edm"},
            "noise_levels": {"name": "log_normal", "mean": -1.2, "std": 1.4},
            "weight": {"name": "edm"},
            "optimizer": {
                "learning_rate": 1e-3,
                "warmup_steps": num_steps // 20,
                "schedule": "cosine",
            },
            "train": {
                "num_steps": num_steps,
                "ema_halflife_steps": 300.0,
                "log_every": 50,
                "sample_every": 1_000,
                "checkpoint_every": 500,
            },
            "sampler": {"name": "heun"},
            "grid": {"name": "karras", "num_steps": 18},
            "sampling": {"num_samples": 64, "batch_size": 16},
            "likelihood": {"rtol": 1e-3, "atol": 1e-3, "batch_size": 26},
        }
    )
