"""Encode data by an autoencoder: score-sde encode --workdir=DIR.

Writes the means and standard deviations of all latents to DIR/latents, and in
latents.json the statistics of their channels and the autoencoder's checksum. A run of
--config.data.name=latents --config.data.path=DIR/latents
--config.companions.autoencoder.run=DIR trains on them.
"""

from __future__ import annotations

from . import launch

FLAGS = {
    "statistics_only": "write latents.json alone, for --config.data.on_the_fly=True"
}


def main(command: launch.Command) -> None:
    """Write the folder of latents; print the statistics of their channels."""
    from score_sde.run.describe import opened
    from score_sde.run.latents import encode_data
    from score_sde.run.open import AUTOENCODER

    run = opened(command, needs=AUTOENCODER)
    if run is None:
        return
    folder = command.workdir / "latents"
    files = not command.options["statistics_only"]
    facts = encode_data(run, command.workdir, folder, with_files=files)
    counts = ", ".join(f"{n:,} {split}" for split, n in facts["counts"].items())
    print(f"{folder}: latents of shape {tuple(facts['shape'])}: {counts}")
    for channel, (mean, std) in enumerate(
        zip(facts["mean"], facts["std"], strict=True)
    ):
        print(f"  channel {channel}: mean {mean:+.3f}, standard deviation {std:.3f}")


if __name__ == "__main__":
    launch.run(main, __doc__ or "", flags=FLAGS)
