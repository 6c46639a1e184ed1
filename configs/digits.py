"""Handwritten digits, 8x8, 17 grey levels: the default run, and variants of it.

    score-sde train --config=digits --workdir=runs/digits
    score-sde train --config=digits:label --workdir=runs/label

The data come with scikit-learn. EDM's preconditioning and loss, with noise levels
spread wider towards the low ones than for pictures alone, since they decide the
likelihood; a network that sees the grey levels as waves; Muon. Four minutes on two CPU
cores. `VARIANTS` has the others; each is as long unless it says so.
"""

from collections.abc import Callable

from ml_collections import ConfigDict, FieldReference

COARSEST = 0.0196
"""The noise level at which a bin of the grey levels is six sigma wide."""


def get_config(variant: str = "") -> ConfigDict:
    """The config, a section per object, of the default run or of a variant."""
    config = default()
    if variant:
        if variant not in VARIANTS:
            raise ValueError(f"{variant!r} is no variant; choose from {[*VARIANTS]}.")
        VARIANTS[variant](config)
    return config.lock()


def default() -> ConfigDict:
    """The config of the default run."""
    num_steps = FieldReference(4_400)
    return ConfigDict(
        {
            "seed": 0,
            "data": {"name": "digits", "batch_size": 64, "sigma_data": 0.71},
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "conditions": {},
            "network": {
                "name": "unet",
                "channels": 32,
                "multipliers": (1, 2),
                "blocks_per_level": 1,
                "dropout": 0.1,
                # One period per grey level, as the network sees its input, x / 0.71.
                "input_frequencies": (12.05,),
            },
            "precondition": {"name": "edm"},
            "noise_levels": {
                "name": "log_normal",
                "mean": -1.2,
                "std": 1.7,
                "stratified": True,
            },
            "weight": {"name": "edm"},
            "objective": {"name": "denoising"},
            "optimizer": {
                "method": "muon",
                "learning_rate": 0.02,
                "adam_learning_rate": 3e-3,
                "b2": 0.99,
                "warmup_steps": num_steps // 88,
                "schedule": "cosine",
            },
            "train": {
                # What is derived from it follows --config.train.num_steps.
                "num_steps": num_steps,
                "ema_halflife_steps": 200.0,
                "log_every": (num_steps + 43) // 44,
                "sample_every": (num_steps + 3) // 4,
                "checkpoint_every": (num_steps + 7) // 8,
            },
            "sampler": {"name": "heun"},
            "grid": {"name": "karras", "num_steps": 18},
            "sampling": {"num_samples": 1_000, "batch_size": 100},
            "likelihood": {
                "rtol": 1e-3,
                "atol": 1e-3,
                "batch_size": 60,
                "num_train": 360,
            },
            # Of a small classifier that is trained on the same digits, in seconds.
            "features": {"name": "classifier"},
            "metrics": {
                "frechet_distance": {},
                "kernel_distance": {},
                "precision_recall": {},
                "class_statistics": {},
            },
        }
    )


# Conditions. One example in ten is trained without them, for guidance.


def label(config: ConfigDict) -> None:
    """Make a model that is told which digit to draw.

    score-sde sample --workdir=runs/label --config.guidance.weight=3.0
        --config.guidance.name=classifier_free --config.conditions.label.samples=3,7
    """
    config.conditions = {"label": {}}
    config.train.condition_dropout = 0.1


def words(config: ConfigDict) -> None:
    """Make a model that reads captions, such as "a handwritten seven".

    A small transformer reads them, and is trained along.
    """
    config.conditions = {"words": {}}
    config.network = {
        "name": "text_unet",
        "channels": 32,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "attention_resolutions": (4,),
        "dropout": 0.1,
    }
    config.train.condition_dropout = 0.1


def vector(config: ConfigDict) -> None:
    """Make a model that is told numbers: how much ink, how slanted, how wide.

    score-sde sample --workdir=runs/vector
        --config.conditions.vector.samples=0.32,0.25,0.17
    """
    config.conditions = {"vector": {"attributes": ("ink", "slant", "width")}}
    config.train.condition_dropout = 0.1


def image(config: ConfigDict) -> None:
    """Make a model that is told a picture of 4x4 pixels (Saharia et al. 2021)."""
    config.conditions = {"image": {"picture": "small", "factor": 2}}
    config.train.condition_dropout = 0.1


def control(config: ConfigDict) -> None:
    """Train a branch that a silhouette controls, on a frozen run; half as many steps.

    score-sde train --config=digits:control
        --config.companions.trunk.run=runs/digits --workdir=runs/control
    """
    config.conditions = {"image": {"picture": "silhouette"}}
    config.network = {"name": "controlled_unet"}
    config.train.condition_dropout = 0.1
    config.train.num_steps = 2_200


def classifier(config: ConfigDict) -> None:
    """Train a classifier of noisy digits, which guides the samples of another run.

    score-sde sample --workdir=runs/label
        --config.guidance.name=classifier
        --config.companions.classifier.run=runs/classifier
    """
    config.network = {"name": "classifier", "width": 256, "depth": 3, "dropout": 0.2}
    config.objective = {"name": "classification"}
    del config.weight
    config.optimizer = {
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "weight_decay": 0.01,
    }
    config.train.num_steps = 4_000


# Latents.


def autoencoder(config: ConfigDict) -> None:
    """Train an autoencoder of 4x4 latents with two channels, for `latent`.

    score-sde train --config=digits:autoencoder --workdir=runs/autoencoder
    score-sde encode --workdir=runs/autoencoder
    """
    config.data.points = "centres"
    config.network = {
        "name": "kl_autoencoder",
        "latent_channels": 2,
        "channels": 32,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "groups": 8,
        "kl_weight": 1e-3,
    }
    config.objective = {
        "name": "autoencoder",
        "reconstruction": "l1",
        "perceptual": "classifier",
        "perceptual_weight": 0.1,
        "discriminator": "hinge",
        "discriminator_weight": 0.2,
        "discriminator_channels": 32,
        "discriminator_layers": 1,
        "discriminator_learning_rate": 5e-4,
        "adversarial_start": 500,
        "adversarial_ramp": 1_000,
    }
    del config.weight
    del config.noise_levels
    config.optimizer = {
        "learning_rate": 1e-3,
        "b1": 0.5,
        "b2": 0.9,
        "schedule": "cosine",
        "warmup_steps": 50,
    }
    config.train.num_steps = 2_500


def latent(config: ConfigDict) -> None:
    """Train a diffusion in the latents of the run `autoencoder`.

    score-sde train --config=digits:latent --workdir=runs/latent
    """
    config.data = {
        "name": "latents",
        "path": "runs/autoencoder/latents",
        "batch_size": 64,
        "sigma_data": 1.0,
    }
    config.companions = {"autoencoder": {"run": "runs/autoencoder"}}
    config.network = {
        "name": "unet",
        "channels": 32,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "dropout": 0.1,
    }
    config.noise_levels = {"name": "log_normal", "mean": -0.6, "std": 1.4}
    config.noise_levels.stratified = True


# A cascade: 4x4 pixels, then 8x8 given them. Block means of 17 levels are 65 levels.

SMALL = {"factor": 2, "num_levels": 65}


def small(config: ConfigDict) -> None:
    """Make the first stage: digits of 4x4 pixels."""
    config.data = {
        "name": "smaller",
        "source": {"name": "digits"},
        **SMALL,
        "batch_size": 64,
        "sigma_data": 0.6,
    }
    config.network.input_frequencies = ()
    config.network.multipliers = (1, 2)
    config.train.num_steps = 3_000


def super_resolution(config: ConfigDict) -> None:
    """Make the second stage: digits of 8x8 pixels given 4x4.

    score-sde evaluate --workdir=runs/super_resolution      # of held-out small digits
    score-sde sample --workdir=runs/super_resolution        # of those that it draws
        --config.companions.low_resolution.run=runs/small
        --config.conditions.low_resolution.level=0.1

    In training half of the small digits have noise, at a level that the network is
    told. It sees the centres of the levels, which their means are exactly those of.
    """
    config.data.points = "centres"
    config.conditions = {
        "low_resolution": {
            **SMALL,
            "resize": "nearest",
            "noise": 0.5,
            "share_without_noise": 0.5,
            "is_marked": False,
        }
    }
    config.likelihood.dequantisation = "truncated_normal"


def regression(config: ConfigDict) -> None:
    """Train the network of `super_resolution` to predict the mean of digits of 8x8.

    It is asked where nothing but noise is seen beside the small digit, and drawn from
    by one step: the regression beside which super-resolution is measured.
    """
    super_resolution(config)
    config.conditions.low_resolution.noise = 0.0
    config.noise_levels = {"name": "log_normal", "mean": 4.382, "std": 0.01}
    config.sampler = {"name": "euler"}
    config.grid = {"name": "levels", "sigmas": (80.0,)}
    config.train.num_steps = 2_200


# Likelihood.


def by_bound(config: ConfigDict) -> None:
    """Train the default network by the variational bound, on uniform points."""
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.weight = {"name": "noise"}


def wavelet_coarse(config: ConfigDict) -> None:
    """Make the first stage of a wavelet cascade: means over blocks of 2x2 pixels."""
    vdm(config)
    config.data = {
        "name": "wavelet",
        "source": {"name": "digits"},
        "part": "coarse",
        "batch_size": 64,
        "sigma_data": 0.57,
        "points": "centres",
    }
    # Of the same noise of the pixels as details have: half as much in means of four.
    config.sde.t_min = COARSEST / 2
    # One period per grey level of a pixel, and per level of a mean, over 0.57.
    config.network.input_frequencies = (9.7, 38.8)


def wavelet_details(config: ConfigDict) -> None:
    """Make the second stage of a wavelet cascade: the details given the means.

    score-sde likelihood --workdir=runs/wavelet_details
        --config.companions.low_resolution.run=runs/wavelet_coarse
    """
    vdm(config)
    config.data = {
        "name": "wavelet",
        "source": {"name": "digits"},
        "part": "details",
        "batch_size": 64,
        "sigma_data": 0.485,
        "points": "centres",
    }
    config.conditions = {"coarse": {}}
    # One period per grey level of the pixels, as the network sees them, over 0.485.
    config.network.input_frequencies = (8.25,)


def likelihood(config: ConfigDict) -> None:
    """Train by maximum likelihood of the grey levels themselves.

    Training sees the centres of the grey levels; the loss is the integral of the
    variational bound, by importance sampling (Song et al. 2021b; Kingma et al. 2021).
    Scoring takes over at t_min with truncated normal points (Zheng et al. 2023) and the
    bound with the discretised decoder.
    """
    config.data.points = "centres"
    config.sde.t_min = COARSEST
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.weight = {"name": "noise"}
    config.likelihood.dequantisation = "truncated_normal"


def vdm(config: ConfigDict) -> None:
    """Train as `likelihood` does, with a learned noise schedule (Kingma et al. 2021).

    Each level is drawn as often as the variance of its estimate asks for. Held-out
    digits: 1.69 bits/dim.
    """
    likelihood(config)
    config.noise_levels = {"name": "learned", "stratified": True}


def variational(config: ConfigDict) -> None:
    """Train by maximum likelihood, and learn the points of each grey level too.

    A conditional flow puts the points within their bins (Ho et al. 2019), trained
    together with the network by the variational bound (Song et al. 2021b, sec. 5).
    """
    config.data.points = "variational"
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.weight = {"name": "noise"}
    config.likelihood.dequantisation = "variational"


def hybrid(config: ConfigDict) -> None:
    """Train the chain of improved DDPM with learned variances (Nichol 2021).

    The simple loss trains the mean, the variational bound the variances. Held-out
    digits: 2.66 +- 0.02 bits/dim by the bound of the chain, 2.44 by the flow. The
    simple loss spends little on the low levels of noise, which decide the likelihood.
    """
    config.chain = {"beta_schedule": "cosine", "num_train_timesteps": 400}
    config.data.points = "centres"
    # The lowest level of the chain, as a time of the SDE.
    config.sde.t_min = 0.0106
    config.network = {
        "name": "adm",
        "channels": 32,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "attention_resolutions": (4,),
        "channels_per_head": 32,
        "learn_sigma": True,
        "dropout": 0.1,
    }
    config.precondition = {"name": "chain"}
    config.weight = {"name": "noise"}
    config.objective = {"name": "hybrid", "bound_weight": 0.001}
    config.sampler = {"name": "ddpm"}
    config.grid = {"name": "ddpm", "num_steps": 100}
    config.likelihood.dequantisation = "truncated_normal"


# The SDEs of Song et al. 2021.


def vp(config: ConfigDict) -> None:
    """Use the variance-preserving SDE."""
    # At t_min the noise level is 0.002, a sixtieth of a grey level.
    config.sde = {"name": "vp", "beta_min": 0.1, "beta_max": 20.0, "t_min": 4e-5}
    config.precondition = {"name": "noise"}
    _score_sde(config)


def subvp(config: ConfigDict) -> None:
    """Use the sub-VP SDE."""
    config.sde = {"name": "subvp", "beta_min": 0.1, "beta_max": 20.0, "t_min": 0.01}
    config.precondition = {"name": "noise"}
    _score_sde(config)


def ve(config: ConfigDict) -> None:
    """Use the variance-exploding SDE."""
    config.sde = {"name": "ve", "sigma_min": 0.005, "sigma_max": 50.0}
    config.precondition = {"name": "ve"}
    _score_sde(config)


def _score_sde(config: ConfigDict) -> None:
    # One period per grey level: here the network sees x itself at low noise.
    config.network.input_frequencies = (17.0,)
    config.weight = {"name": "noise"}
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.grid = {"name": "uniform_time", "num_steps": 100}


# Few steps: score-sde distil --from=runs/digits --config=digits:direct --workdir=...
# Published laws of the noise level have their mass below sigma = 10, and millions of
# examples to reach 80 all the same. One step begins there: in 1,500 steps a student
# must see it often.


def student(config: ConfigDict, num_steps: int) -> None:
    """Train on from a run of this network, which is the companion `teacher`."""
    config.optimizer = {
        "method": "adamw",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_steps": 20,
    }
    config.train.num_steps = num_steps
    config.train.ema_halflife_steps = 50.0
    config.sampler = {"name": "jump"}


def direct(config: ConfigDict) -> None:
    """Learn the jumps between four levels, and to data, of stored trajectories.

    One, two or four steps: --config.grid.sigmas=80.0, or 80.0,2.5.
    """
    student(config, 2_000)
    levels = (80.0, 14.0, 2.5, 0.4)
    config.objective = {"name": "direct", "levels": levels, "teacher_steps": 2}
    config.grid = {"name": "levels", "sigmas": (80.0,)}


def progressive(config: ConfigDict) -> None:
    """Halve the steps from four to one; the first four are taught by Heun's method."""
    student(config, 1_500)
    config.optimizer.cycles = 3
    levels = (80.0, 14.0, 2.5, 0.4)
    config.objective = {"name": "progressive", "levels": levels}
    config.grid = {"name": "levels", "sigmas": (80.0,)}


def consistency(config: ConfigDict) -> None:
    """Distil a consistency model (Song et al. 2023)."""
    student(config, 2_400)
    config.objective = {"name": "consistency", "from_teacher": True}
    config.sampler = {"name": "consistency"}
    config.grid = {"name": "levels", "sigmas": (80.0, 0.8)}


def tuning(config: ConfigDict) -> None:
    """Tune a consistency model from the data (Geng et al. 2025)."""
    student(config, 2_000)
    config.noise_levels = {"name": "log_normal", "mean": 1.0, "std": 2.0}
    config.objective = {"name": "consistency_tuning"}
    config.sampler = {"name": "consistency"}
    config.grid = {"name": "levels", "sigmas": (80.0, 0.8)}


def continuous(config: ConfigDict) -> None:
    """Distil a consistency model in continuous time (Lu and Song 2025).

    The tangent at sigma = 80 is a seventieth of that at 1: the published offset of its
    norm, 0.1, would all but stop it there. Even so 1,500 steps are too few, and most
    samples of one step are the mean digit.
    """
    student(config, 1_500)
    config.noise_levels = {"name": "log_normal", "mean": 1.0, "std": 2.0}
    config.objective = {
        "name": "continuous_consistency",
        "warm_up_steps": 300,
        "offset": 1e-3,
    }
    config.sampler = {"name": "consistency"}
    config.grid = {"name": "levels", "sigmas": (80.0, 0.98)}


def mean_flow(config: ConfigDict) -> None:
    """Distil the average velocity (Geng et al. 2025).

    The authors' law of times draws one example in thirty above sigma = 10, and their
    weight divides its gradient at 80 by nine: with both, 1,500 steps leave the jump
    from 80 where the denoiser has it, and one step draws the mean digit.
    """
    student(config, 1_500)
    config.objective = {"name": "mean_flow", "mean": 1.0, "std": 2.0, "power": 0.5}
    config.grid = {"name": "levels", "sigmas": (80.0,)}


def flow_map(config: ConfigDict) -> None:
    """Distil a flow map between any two levels by the Lagrangian loss (Boffi 2025).

    One, two or four steps: --config.grid.sigmas=80.0, or 80.0,2.5. A quarter of the
    jumps begin above sigma = 10, where one step does.
    """
    student(config, 1_500)
    config.noise_levels = {"name": "log_normal", "mean": 1.0, "std": 2.0}
    config.objective = {"name": "flow_map", "method": "lagrangian"}
    config.grid = {"name": "levels", "sigmas": (80.0, 2.5)}


def direct_likelihood(config: ConfigDict) -> None:
    """Learn the likelihood in 1, 2, 4 or 8 jumps from stored flows of the teacher.

    score-sde likelihood --workdir=runs/few --config.likelihood.num_jumps=4
    """
    student(config, 1_600)
    config.objective = {"name": "direct_likelihood", "num_trajectories": 1_500}
    config.sampler = {"name": "heun"}


VARIANTS: dict[str, Callable[[ConfigDict], None]] = {
    "small": small,
    "super_resolution": super_resolution,
    "regression": regression,
    "by_bound": by_bound,
    "wavelet_coarse": wavelet_coarse,
    "wavelet_details": wavelet_details,
    "label": label,
    "words": words,
    "vector": vector,
    "image": image,
    "control": control,
    "classifier": classifier,
    "autoencoder": autoencoder,
    "latent": latent,
    "likelihood": likelihood,
    "vdm": vdm,
    "variational": variational,
    "hybrid": hybrid,
    "vp": vp,
    "subvp": subvp,
    "ve": ve,
    "direct": direct,
    "progressive": progressive,
    "consistency": consistency,
    "tuning": tuning,
    "continuous": continuous,
    "mean_flow": mean_flow,
    "flow_map": flow_map,
    "direct_likelihood": direct_likelihood,
}
"""What may stand behind the colon -> what it changes."""
