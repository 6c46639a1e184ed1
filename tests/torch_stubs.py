"""Files like those of torch, EDM and hostile strangers, written without torch.

The stubs have the names that the real ones have in a file; that files of the real
torch 2.14 are read in the same way was checked once.
"""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def stub(module, name, made):
    """An object that pickles as module.name."""
    made.__module__, made.__qualname__, made.__name__ = module, name, name
    for i in range(1, module.count(".") + 2):
        part = ".".join(module.split(".")[:i])
        sys.modules.setdefault(part, types.ModuleType(part))
    setattr(sys.modules[module], name, made)
    return made


def _function():
    def function(*arguments):
        raise AssertionError("executed")

    return function


def install():
    """(stubs by what they stand for, the modules that were added for them)."""
    before = set(sys.modules)
    made = {name: stub("torch", name, type(name, (), {})) for name in STORAGES.values()}
    made["tensor"] = stub("torch._utils", "_rebuild_tensor_v2", _function())
    made["parameter"] = stub("torch._utils", "_rebuild_parameter", _function())
    made["bytes"] = stub("torch.storage", "_load_from_bytes", _function())
    made["dict"] = stub("torch.nn.modules.container", "ModuleDict", type("M", (), {}))
    persistence = "torch_utils.persistence"
    made["object"] = stub(persistence, "_reconstruct_persistent_obj", _function())
    made["easy"] = stub("dnnlib.util", "EasyDict", type("E", (dict,), {}))
    return made, set(sys.modules) - before


class Storage:
    """The memory of a tensor; `nested` ones are pickled as a file in a file."""

    def __init__(self, array, key):
        self.array, self.key = array, key


class Writer(pickle.Pickler):
    """Pickles arrays as torch does: `nested`, or by persistent ids."""

    def __init__(self, stream, protocol, made, nested):
        super().__init__(stream, protocol)
        self.made, self.nested, self.storages = made, nested, []

    def persistent_id(self, item):
        if isinstance(item, Storage) and not self.nested:
            kind = self.made[STORAGES[str(item.array.dtype)]]
            return ("storage", kind, item.key, "cpu", item.array.size)
        return None

    def reducer_override(self, item):
        if isinstance(item, Storage):
            return self.made["bytes"], (legacy(item, self.made),)
        if isinstance(item, np.ndarray):
            storage = Storage(item.reshape(-1), str(len(self.storages)))
            self.storages.append(storage)
            strides = tuple(s // item.itemsize for s in item.strides)
            rest = (False, OrderedDict())
            return self.made["tensor"], (storage, 0, item.shape, strides, *rest)
        return NotImplemented


def dump(value, made, *, protocol=2, nested=False):
    stream = io.BytesIO()
    writer = Writer(stream, protocol, made, nested)
    writer.dump(value)
    return stream.getvalue(), writer.storages


def zipped(value, made):
    """The format since torch 1.6."""
    data, storages = dump(value, made)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        archive.writestr("archive/byteorder", "little")
    return stream.getvalue()


def legacy(value, made):
    """The format before torch 1.6."""
    data, storages = dump(value, made)
    if isinstance(value, Storage):
        storages = [value]
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts += [data, pickle.dumps([s.key for s in storages], 2)]
    for storage in storages:
        parts += [struct.pack("<q", storage.array.size), storage.array.tobytes()]
    return b"".join(parts)


class Persistent:
    """EDM's modules: a call with the source of the class and its state."""

    def __init__(self, made):
        self.made, self._parameters, self._buffers, self._modules = made, {}, {}, {}

    def __reduce__(self):
        state = {k: v for k, v in vars(self).items() if k != "made"}
        meta = {"type": "class", "version": 6, "class_name": "Net", "state": state}
        meta["module_src"] = "raise AssertionError('executed')"
        return self.made["object"], (meta,)


class Parameter:
    def __init__(self, made, array):
        self.made, self.array = made, array

    def __reduce__(self):
        return self.made["parameter"], (self.array, True, OrderedDict())


def edm(arrays, made, protocol=4):
    """A snapshot of EDM: modules in modules, in a dict with other things."""
    root = Persistent(made)
    for name, array in arrays.items():
        *path, last = name.split(".")
        node = root
        for word in path:
            if word not in node._modules:
                child = Persistent(made)
                if word in ("enc", "dec"):
                    child = made["dict"]()
                    child._parameters, child._buffers, child._modules = {}, {}, {}
                node._modules[word] = child
            node = node._modules[word]
        if last in ("freqs", "phases"):
            node._buffers[last] = array
        else:
            node._parameters[last] = Parameter(made, array)
    easy = made["easy"](resolution=16)
    content = {"ema": root, "loss_fn": Persistent(made), "dataset_kwargs": easy}
    return dump(content, made, protocol=protocol, nested=True)[0]
