"""Images a second of the data path, beside torch's DataLoader and grain's, on one core.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.data [--json=FILE]

50,000 random images [32, 32, 3] of uint8 in memory, with labels, in shuffled batches of
128, epoch after epoch. All sides take turns in one process and one thread, in whose own
time the rates are, so that other programs matter less; a ratio is that of medians, ours
over theirs. First each side is held to its contract: an epoch shows every image
once, with its own label. torch (extra `peers`) and grain (extra `tfds`) are left out if
they are not installed.

ours            `data.batches` of arrays in memory
ours_npz        of the same arrays in an npz file, mapped into memory
ours_zip        of the same images as PNG in a zip archive, decoded in this process
torch           DataLoader over a data set that gives one image at a time, as usual
torch_tensors   DataLoader over torch's own TensorDataset
torch_batches   DataLoader that is asked for whole batches, the fastest it can
grain_records   grain's MapDataset over images, batched by it
grain_loader    grain's DataLoader over images, batched by it
grain_batches   grain's MapDataset over whole batches, as `data.batches` uses it
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from score_sde import data
from score_sde.data.feeding import Batches

SHAPE, BATCH, SEED = (32, 32, 3), 128, 0
Epochs = Iterator[tuple[Any, Any]]
"""Batches (images, labels), epoch after epoch."""
Side = Callable[[np.ndarray, np.ndarray], Epochs]


def from_rows(rows: Iterator[data.dataset.Rows]) -> Epochs:
    return ((row["values"], row["label"]) for row in rows)


def in_memory(images: np.ndarray, labels: np.ndarray) -> data.Dataset:
    examples = data.InMemory(images, labels)
    return data.Dataset("random", SHAPE, 256, len(labels), lambda _: examples)


def ours(images: np.ndarray, labels: np.ndarray) -> Epochs:
    dataset = in_memory(images, labels)
    return from_rows(data.batches(dataset, seed=SEED, step=0, batch_size=BATCH))


def ours_npz(images: np.ndarray, labels: np.ndarray) -> Epochs:
    folder = tempfile.TemporaryDirectory()
    path = f"{folder.name}/random.npz"
    np.savez(path, images=images, labels=labels)
    dataset = data.files(data.Format(SHAPE, 256, len(labels)), path, path)
    yield from from_rows(data.batches(dataset, seed=SEED, step=0, batch_size=BATCH))
    folder.cleanup()


def ours_zip(images: np.ndarray, labels: np.ndarray) -> Epochs:
    from PIL import Image

    folder = tempfile.TemporaryDirectory()
    path = f"{folder.name}/random.zip"
    names = [f"{label:06d}.png" for label in labels]
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, images, strict=True):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG", compress_level=1)
            archive.writestr(name, stream.getvalue())
        table = {"labels": list(zip(names, labels.tolist(), strict=True))}
        archive.writestr("dataset.json", json.dumps(table))
    dataset = data.files(data.Format(SHAPE, 256, len(labels)), path, path)
    yield from from_rows(data.batches(dataset, seed=SEED, step=0, batch_size=BATCH))
    folder.cleanup()


def torch(images: np.ndarray, labels: np.ndarray) -> Epochs:
    from torch import from_numpy
    from torch.utils.data import DataLoader, Dataset

    class Images(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> Any:
            return from_numpy(images[i]), labels[i]

    loader = DataLoader(Images(), batch_size=BATCH, shuffle=True)
    while True:
        yield from loader


def torch_tensors(images: np.ndarray, labels: np.ndarray) -> Epochs:
    from torch import from_numpy
    from torch.utils.data import DataLoader, TensorDataset

    tensors = TensorDataset(from_numpy(images), from_numpy(labels))
    loader = DataLoader(tensors, batch_size=BATCH, shuffle=True)
    while True:
        yield from loader


def torch_batches(images: np.ndarray, labels: np.ndarray) -> Epochs:
    from torch import from_numpy
    from torch.utils import data as td

    tensors = td.TensorDataset(from_numpy(images), from_numpy(labels))
    batched = td.BatchSampler(td.RandomSampler(tensors), BATCH, drop_last=False)
    loader = td.DataLoader(tensors, batch_size=None, sampler=batched)
    while True:
        yield from loader


class Pairs:
    """One image at a time, for grain."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        return self.images[i], self.labels[i]


def grain_records(images: np.ndarray, labels: np.ndarray) -> Epochs:
    import grain

    source = grain.MapDataset.source(Pairs(images, labels)).shuffle(SEED).repeat()
    return iter(source.batch(BATCH).to_iter_dataset(grain.ReadOptions(num_threads=0)))


def grain_loader(images: np.ndarray, labels: np.ndarray) -> Epochs:
    import grain

    sampler = grain.samplers.IndexSampler(len(images), shuffle=True, seed=SEED)
    return iter(
        grain.DataLoader(
            data_source=Pairs(images, labels),
            sampler=sampler,
            operations=[grain.transforms.Batch(BATCH)],
            read_options=grain.ReadOptions(num_threads=0),
        )
    )


def grain_batches(images: np.ndarray, labels: np.ndarray) -> Epochs:
    import grain

    source = grain.MapDataset.source(Batches(in_memory(images, labels), SEED, BATCH))
    read = source.to_iter_dataset(grain.ReadOptions(num_threads=0))
    return from_rows(iter(read))


def check(epochs: Epochs, images: np.ndarray) -> None:
    """Raises: AssertionError if an epoch does not show every image once."""
    seen: list[Any] = []
    while len(seen) < len(images):
        batch, labels = (np.asarray(a) for a in next(epochs))
        np.testing.assert_array_equal(batch, images[labels])
        seen += labels.tolist()
    assert sorted(seen[: len(images)]) == list(range(len(images)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (given.count, *SHAPE), dtype=np.uint8)
    labels = np.arange(given.count, dtype=np.int32)
    sides: list[Side] = [ours, ours_npz, ours_zip]
    if importlib.util.find_spec("torch"):
        import torch as library

        library.set_num_threads(1)
        sides += [torch, torch_tensors, torch_batches]
    if importlib.util.find_spec("grain"):
        sides += [grain_records, grain_loader, grain_batches]
    running = {}
    for side in sides:
        running[side.__name__] = side(images, labels)
        check(running[side.__name__], images)
    steps = given.count // BATCH
    rates: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(given.repeat):
        for name, epochs in running.items():
            start = time.process_time()
            for _ in range(steps):
                next(epochs)
            rates[name].append(steps * BATCH / (time.process_time() - start))
    medians = {name: float(np.median(r)) for name, r in rates.items()}
    names = [m for m in ("torch", "grain") if importlib.util.find_spec(m)]
    result = record.circumstances(*names) | {
        "images_per_second": medians,
        "ratio": {n: medians["ours"] / r for n, r in medians.items() if n != "ours"},
        "all_images_per_second": rates,
        "examples": given.count,
    }
    print(json.dumps(result, indent=2))
    record.write(given.json, result)


if __name__ == "__main__":
    main()
