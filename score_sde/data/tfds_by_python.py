"""Classes of TensorFlow Datasets that Python alone prepares, of names that TFDS knows.

Name, version, digests of what is downloaded and examples are those of TFDS's own class,
which needs TensorFlow to open and unpack files and to write pictures.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from score_sde.data.idx import read_idx


def cifar_by_python(cifar: type[Any]) -> type[Any]:
    """Make a class of CIFAR that Python alone prepares, from that of TFDS.

    A record of the archives is one byte for each label and the pixels, uint8
    [3, 32, 32].

    Args:
        cifar: TFDS's class of CIFAR-10 or CIFAR-100.
    """
    from PIL import Image

    class Cifar(cifar, skip_registration=True):  # type: ignore[call-arg]
        name = cifar.name
        url_infos = cifar.url_infos
        pkg_dir_path = cifar.pkg_dir_path

        def _split_generators(self, downloads: Any) -> dict[str, Any]:
            of = self._cifar_info
            with tarfile.open(downloads.download(of.url)) as archive:

                def read(name: str) -> bytes:
                    member = archive.extractfile(of.prefix + name)
                    assert member is not None  # a file, not a folder
                    return member.read()

                for key, file in zip(of.label_keys, of.label_files, strict=True):
                    self.info.features[key].names = read(file).decode().split()
                splits = {"train": of.train_files, "test": of.test_files}
                return {
                    split: self._generate_examples(split, b"".join(map(read, files)))
                    for split, files in splits.items()
                }

        def _generate_examples(
            self, split: str, records: bytes
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            keys = self._cifar_info.label_keys
            rows = np.frombuffer(records, np.uint8).reshape(-1, len(keys) + 3 * 32 * 32)
            for i, row in enumerate(rows):
                pixels = row[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
                labels = map(int, row[: len(keys)])
                yield (
                    i,
                    {
                        "id": f"{split}_{i:05d}",
                        "image": Image.fromarray(pixels),
                        **dict(zip(keys, labels, strict=True)),
                    },
                )

    return Cifar


def mnist_by_python(mnist: type[Any]) -> type[Any]:
    """Make a class of MNIST's family that Python alone prepares, from that of TFDS.

    Args:
        mnist: TFDS's class of MNIST, Fashion-MNIST or KMNIST.
    """
    from PIL import Image

    class Mnist(mnist, skip_registration=True):  # type: ignore[call-arg]
        name = mnist.name
        url_infos = mnist.url_infos
        pkg_dir_path = mnist.pkg_dir_path

        def _split_generators(self, downloads: Any) -> dict[str, Any]:
            def read(name: str) -> np.ndarray:
                return read_idx(Path(downloads.download(urljoin(self.URL, name))))

            return {
                split: self._generate_examples(
                    read(f"{begin}-images-idx3-ubyte.gz"),
                    read(f"{begin}-labels-idx1-ubyte.gz"),
                )
                for split, begin in (("train", "train"), ("test", "t10k"))
            }

        def _generate_examples(
            self, images: np.ndarray, labels: np.ndarray
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    return Mnist


WITHOUT_TENSORFLOW: dict[str, Callable[[type[Any]], type[Any]]] = {
    **dict.fromkeys(("cifar10", "cifar100"), cifar_by_python),
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), mnist_by_python),
}
"""Name -> function from TFDS's class to one that needs no TensorFlow."""
