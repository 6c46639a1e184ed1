"""A feature network in use: images in, features out, and what they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from score_sde.weights.published.tensors import Tensor

BATCH = {"cpu": 4}
"""How many images a device of a kind computes at once, always: the results of programs
of different sizes differ by 2e-7, which no number of devices may change."""
OTHER_BATCH = 64
Prepare = Callable[[np.ndarray], np.ndarray]
"""uint8 images [n, height, width, channels] as the network's float32 input."""


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A function: images [examples, height, width, channels] -> features, float32.

    Images are uint8, of one channel or three. Neither how many come at once nor the
    number of devices has an influence.
    """

    name: str
    compute: Callable[[np.ndarray], np.ndarray]
    """Features [batch, dims] of a batch of checked images."""
    identity: Mapping[str, str]
    """What the features depend on: output, resize, weights (sha256), dtype."""
    logits: Callable[[Any], np.ndarray] | None = None
    """Logits [examples, classes] of the same images, if the network classifies."""
    takes_any: bool = False
    """Whether it takes any other examples [examples, *dims] too, such as points."""

    def __call__(self, images: Any) -> np.ndarray:
        """The features of images, float32 [examples, dims].

        Raises: ValueError for what are no images.
        """
        array = np.asarray(images) if self.takes_any else check_images(images)
        parts = []
        for rows in batches(len(array)):
            part = array[rows]
            # One shape is compiled; what is computed of the padding is thrown away.
            missing = rows.stop - rows.start - len(part)
            padded = np.concatenate([part, part[:1].repeat(missing, 0)])
            parts.append(np.asarray(self.compute(padded), np.float32)[: len(part)])
        return np.concatenate(parts)


def batches(number: int) -> Iterator[slice]:
    """Slices that cut images into batches of one size; the last may reach beyond.

    A batch has a share for every device of this host, or for one if that is enough.
    """
    share = BATCH.get(jax.default_backend(), OTHER_BATCH)
    size = share if number <= share else share * jax.local_device_count()
    for start in range(0, number, size):
        yield slice(start, start + size)


def check_images(images: Any) -> np.ndarray:
    """Images as a uint8 array [examples, height, width, channels].

    Raises: ValueError naming what they are and what they must be.
    """
    array = np.asarray(images)
    if array.dtype != np.uint8:
        raise ValueError(
            f"images hold {array.dtype}; they must hold uint8, as they are published."
        )
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or not array.size:
        raise ValueError(
            f"images have shape {array.shape}; it must be [examples, height, width, "
            "channels], one channel or three."
        )
    return array


def network_extractor(
    name: str,
    module: Any,
    *,
    prepare: Prepare,
    shape: tuple[int, ...],
    output: str,
    weights: Sequence[Path],
    tables: Callable[[Any], Mapping[str, Sequence[Tensor]]],
    identity: Mapping[str, str],
    logits: str = "",
) -> Extractor:
    """An extractor by a network with published weights.

    Args:
        name: what reports call the features.
        module: a Linen module from images to named outputs.
        prepare: from images of three channels to its input.
        shape: of one input.
        output: which of its outputs the features are.
        weights: the files that hold its weights, together.
        tables: from shapes of parameters to the names that files use, by program.
        identity: what else the features depend on, such as the resize.
        logits: which of its outputs are logits; "" for none.
    Raises: UserError for a file that is missing, or does not fit.
    """
    from score_sde.weights import parameters_of_files

    params = parameters_of_files(module, shape, weights, tables)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]

    def colours(images: np.ndarray) -> np.ndarray:
        three = images.repeat(3, axis=-1) if images.shape[-1] == 1 else images
        return prepare(three)

    return extractor_of(
        name,
        module,
        params,
        prepare=colours,
        output=output,
        identity={"weights": ",".join(digests), **identity},
        logits=logits,
    )


def extractor_of(
    name: str,
    module: Any,
    params: Any,
    *,
    prepare: Prepare,
    output: str,
    identity: Mapping[str, str],
    logits: str = "",
    takes_any: bool = False,
) -> Extractor:
    """An extractor by a network and its parameters, on all devices of this host.

    Args:
        name: what reports call the features.
        module: a Linen module from images to named outputs.
        params: its parameters.
        prepare: from images to its input.
        output: which of its outputs the features are.
        identity: what the features depend on beside the output: weights, resize.
        logits: which of its outputs are logits; "" for none.
        takes_any: whether it takes any examples, not images alone.
    """
    from score_sde.runtime.jobs import BY_EXAMPLE, EVERYWHERE, map_examples
    from score_sde.runtime.mesh import local_mesh, replicated

    mesh, first = local_mesh(), jax.local_devices()[0]
    everywhere = jax.device_put(params, replicated(mesh))
    here = jax.device_put(params, first) if mesh.size > 1 else everywhere

    def made(output: str, logits: Extractor | None) -> Extractor:
        def apply(params: Any, x: Any) -> Any:
            return module.apply({"params": params}, x)[output]

        all_devices = map_examples(apply, mesh, EVERYWHERE, BY_EXAMPLE)
        one_device = all_devices if mesh.size == 1 else jax.jit(apply)

        def compute(images: np.ndarray) -> np.ndarray:
            share = BATCH.get(jax.default_backend(), OTHER_BATCH)
            x = prepare(images)
            with jax.default_matmul_precision("highest"):
                if len(images) <= share:
                    return np.asarray(one_device(here, x))
                return np.asarray(all_devices(everywhere, x))

        known = {"output": output, "dtype": "float32", **identity}
        return Extractor(name, compute, known, logits, takes_any)

    return made(output, made(logits, None) if logits else None)
