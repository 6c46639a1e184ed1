"""Measure an autoencoder: score-sde reconstruct --workdir=DIR.

Writes reconstruct.json, with the Frechet distance of the reconstructions in the
features of the config, PSNR, SSIM, LPIPS where its weights are given, codebook use and
the statistics of the latents' channels, and reconstruct.png: held-out images above
their reconstructions.
"""

from __future__ import annotations

from . import launch


def main(command: launch.Command) -> None:
    """Reconstruct the held-out images, measure, write, print the table."""
    import numpy as np

    from score_sde.evaluation.plots import save_samples
    from score_sde.run.describe import opened
    from score_sde.run.open import AUTOENCODER
    from score_sde.run.provenance import circumstances
    from score_sde.run.reconstruction import measure, table
    from score_sde.runtime.folder import write_json
    from score_sde.runtime.mesh import is_main_host

    run = opened(command, needs=AUTOENCODER)
    if run is None:
        return
    found = measure(run)
    path = command.workdir / "reconstruct.json"
    if is_main_host():
        made_by = {"step": run.step, "parameters": run.digest}
        report = {"made_by": made_by, "made": circumstances(), **found.report}
        write_json(path, report)
        # Rows of images, each above its reconstructions.
        pairs = zip(_rows(found.images), _rows(found.reconstructions), strict=True)
        shown = np.concatenate([a for pair in pairs for a in pair])
        levels = run.dataset.num_levels
        save_samples(path.with_suffix(".png"), shown, num_levels=levels)
    print(
        f"{path}: {found.report['examples']:,} held-out images\n{table(found.report)}"
    )


def _rows(images):  # type: ignore[no-untyped-def]
    """Images in rows of eight, as the picture has them."""
    return [images[i : i + 8] for i in range(0, len(images) // 8 * 8, 8)]


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
