"""Other programs' weight files: read as data, fitted whole, and written again."""

import argparse
import collections
import datetime
import functools
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import pytest
import torch_stubs
from cases import GOLDEN
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file, save_file

from experiments import import_weights, launch, train
from experiments.export_weights import ABOUT
from score_sde import weights
from score_sde.networks import NETWORKS, DDPMUNet, SongUNet, dit, edm2, from_linen
from score_sde.run import build
from score_sde.run.open import open_run
from score_sde.types import UserError
from score_sde.weights import records
from score_sde.weights.published import PUBLISHED, tables

ROOT = Path(__file__).parents[1]
SMALL = {
    "edm2": edm2.EDM2(
        channels=16,
        multipliers=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(8,),
        channels_per_head=16,
        num_classes=5,
        logvar_channels=16,
    ),
    "dit": dit.DiT(hidden_size=48, depth=2, num_heads=3, num_classes=5),
}
SHAPES = {"edm2": (16, 16, 3), "dit": (8, 8, 4)}


@pytest.fixture(scope="module")
def made():
    """Stubs of torch for the length of these tests."""
    stubs, added = torch_stubs.install()
    yield stubs
    for name in added:
        sys.modules.pop(name, None)


def arrays_of(name):
    return dict(np.load(GOLDEN / f"nets/{name}.weights.npz"))


@functools.cache
def known_of(name):
    """(shapes of the parameters of a small network, the names that files give them)."""
    module = {**SMALL, **SONG, "ddpmpp": DDPMPP}[name]
    shape = SHAPES.get(name, (16, 16, 3))
    network = from_linen(module, shape, {"label": np.zeros(1, np.int32)})
    like = jax.eval_shape(network.init, jr.key(0))
    registered = {make: name for name, make in NETWORKS.items()}
    return like, tables(registered[type(module)], module, shape, like)


def fitted(name, state):
    """The parameters of a small network from the arrays of a file."""
    like, known = known_of(name)
    return known[name], weights.fit(state, known, like)


def random_params(name):
    random = np.random.RandomState(0)
    return jax.tree.map(
        lambda a: random.normal(size=a.shape).astype(np.float32), known_of(name)[0]
    )


def equal(params, others):
    return jax.tree.all(jax.tree.map(np.array_equal, params, others))


def read(tmp_path, data):
    file = tmp_path / "weights"
    file.write_bytes(data)
    return weights.state_dict(weights.read(file))


def npz(arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def nested(arrays):
    """Dots as dicts in dicts, as Flax has them."""
    tree = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        node = tree
        for word in path:
            node = node.setdefault(word, {})
        node[last] = array
    return tree


def zeros(arrays):
    return {name: np.zeros_like(array) for name, array in arrays.items()}


WRAPPED = {
    "zip": ("dit", lambda a, m: torch_stubs.zipped(a, m)),
    "zip with average": (
        "dit",
        lambda a, m: torch_stubs.zipped({"model": zeros(a), "ema": a, "step": 3}, m),
    ),
    "zip of a parallel module": (
        "dit",
        lambda a, m: torch_stubs.zipped({f"module.{k}": v for k, v in a.items()}, m),
    ),
    "legacy": (
        "dit",
        lambda a, m: torch_stubs.legacy({"model": zeros(a), "ema": a}, m),
    ),
    "npz": ("dit", lambda a, m: npz(a)),
    "flax": (
        "dit",
        lambda a, m: msgpack_serialize({"params_ema": nested(a), "step": 5}),
    ),
    "edm, protocol 2": ("edm2", lambda a, m: torch_stubs.edm(a, m, 2)),
    "edm, protocol 4": ("edm2", lambda a, m: torch_stubs.edm(a, m, 4)),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_every_format_gives_the_same_parameters(wrapped, made, tmp_path):
    name, write = WRAPPED[wrapped]
    arrays = arrays_of(name)
    state = read(tmp_path, write(arrays, made))
    table, (program, params) = fitted(name, state)
    assert program == name
    back = weights.published_arrays(params, table)
    assert list(back) == list(arrays)  # in the published order, too
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize("name", SMALL)
def test_out_and_in_again_is_exact(name, tmp_path):
    state = weights.StateDict(arrays_of(name), [])
    table, (_, params) = fitted(name, state)
    file = tmp_path / "out.safetensors"
    save_file(weights.published_arrays(params, table), file)
    again = fitted(name, weights.state_dict(weights.read(file)))[1][1]
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert equal(again, params)


def test_an_average_without_names_goes_to_the_trained_parameters_in_order():
    arrays = arrays_of("dit")
    named = zeros(arrays) | {"pos_embed": arrays["pos_embed"]}
    unnamed = [a for n, a in arrays.items() if n != "pos_embed"]
    table, (_, params) = fitted("dit", weights.StateDict(named, unnamed))
    back = weights.published_arrays(params, table)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)
    with pytest.raises(UserError, match="the average has 30 tensors; the network trai"):
        fitted("dit", weights.StateDict(named, unnamed[1:]))


DDPMPP = SongUNet(
    channels=16, multipliers=(1, 2), blocks_per_level=1, attention_resolutions=(8,)
)
SONG = {
    "ddpm": DDPMUNet(channels=32, multipliers=(1, 2), blocks_per_level=1),
    "song_unet": SongUNet(
        channels=16,
        multipliers=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(8,),
        embedding="fourier",
        resample_filter=(1, 3, 3, 1),
        progressive_input="residual",
    ),
}


@pytest.mark.parametrize("name", SONG)
def test_checkpoints_of_both_programs_of_score_sde(name, made, tmp_path):
    (like, known), params = known_of(name), random_params(name)
    # PyTorch: an average without names, beside a model from a parallel module.
    table = known["score_sde_pytorch"]
    arrays = weights.published_arrays(params, table)
    frozen = {t.name for t in table if t.frozen or not t.path}
    trained = [arrays[t.name] for t in table if t.name not in frozen]
    model = {
        f"module.{n}": a if n in frozen else np.zeros_like(a) for n, a in arrays.items()
    }
    content = {
        "model": {n: a.astype(np.float32) for n, a in model.items()},
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": trained},
        "step": 7,
    }
    state = read(tmp_path, torch_stubs.zipped(content, made))
    program, again = weights.fit(state, known, like)
    assert program == "score_sde_pytorch"
    assert equal(again, params)
    # Flax: classes are numbered by themselves, and norms had four axes.
    arrays = {
        n: a.reshape(1, 1, 1, -1) if "GroupNorm" in n else a
        for n, a in weights.published_arrays(params, known["score_sde_flax"]).items()
    }
    content = {"params_ema": nested(arrays), "step": 7, "optimizer": {"target": {}}}
    state = read(tmp_path, msgpack_serialize(content))
    program, again = weights.fit(state, known, like)
    assert program == "score_sde_flax"
    assert equal(again, params)


def test_names_in_flax_are_those_of_score_sdes_modules():
    """As its modules are made: embeddings, input, then level by level."""
    module = SONG["song_unet"]
    known = tables("song_unet", module, (16, 16, 3), {})["score_sde_flax"]
    modules = list(dict.fromkeys(tensor.name.split(".")[0] for tensor in known))
    block, attention = "ResnetBlockBigGANpp", "AttnBlockpp"
    down = [f"{block}_0", f"{block}_1", "Downsample_0", f"{block}_2", f"{attention}_0"]
    middle = [f"{block}_3", f"{attention}_1", f"{block}_4"]
    last = [f"{block}_{i}" for i in (7, 8, 9)]
    up = [f"{block}_5", f"{block}_6", f"{attention}_2", *last]
    start = ["GaussianFourierProjection_0", "Dense_0", "Dense_1", "Conv_0"]
    assert modules == [*start, *down, *middle, *up, "GroupNorm_0", "Conv_1"]
    names = [tensor.name.partition(".") for tensor in known]
    inside = [part for first, _, part in names if first == f"{block}_1"]
    layers = ["GroupNorm_0.scale", "Conv_0.kernel", "Dense_0.kernel"]
    layers += ["GroupNorm_1.scale", "Conv_1.kernel", "Conv_2.kernel"]
    assert inside[::2] == layers


def test_half_precision_becomes_the_same_numbers_in_single(tmp_path):
    arrays = {k: v.astype(np.float16) for k, v in arrays_of("dit").items()}
    state = read(tmp_path, npz(arrays))
    table, (_, params) = fitted("dit", state)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    back = weights.published_arrays(params, table)
    np.testing.assert_array_equal(back["pos_embed"], arrays["pos_embed"])


def test_a_network_without_its_wrapper_and_one_with_it_too_many():
    arrays = arrays_of("dit")
    for prefix in ("model.", "unet."):
        named = {prefix + name: array for name, array in arrays.items()}
        fitted("dit", weights.StateDict(named, []))
    arrays = arrays_of("edm2")
    bare = {name.removeprefix("unet."): array for name, array in arrays.items()}
    fitted("edm2", weights.StateDict(bare, []))


def under(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


def moments(arrays):
    """An optimiser's, which have the names of the parameters."""
    return {"0": {"count": np.array(7), "mu": nested(zeros(arrays))}}


PLACES = {
    "net": lambda a: {"net": a, "optimizer_state": {"param_groups": [{"lr": 0.1}]}},
    "in a wrapper's wrapper": lambda a: {"state_dict": {"model": a}},
    "average of a net": lambda a: {"net": zeros(a), "net_ema": a},
    "average in a checkpoint": lambda a: {"checkpoint": {"model": zeros(a), "ema": a}},
    "first of two averages": lambda a: {
        "net": zeros(a),
        "ema": {"stds": [0.05, 0.1], "emas": [a, zeros(a)]},
    },
    "average by prefix": lambda a: {
        "initted": np.array(True),
        **under("online_model.", zeros(a)),
        **under("ema_model.", a),
    },
    "compiled": lambda a: under("module._orig_mod.", a),
    "beside an autoencoder": lambda a: {
        "state_dict": under("model.diffusion_model.", a)
        | under("first_stage_model.", {"conv.weight": np.ones(3, np.float32)}),
    },
    "behind its moments": lambda a: {"opt_state": moments(a), "params": nested(a)},
    "among settings": lambda a: {**a, "epoch": 7, "steps": np.array(3), "by": "me"},
    "in float64": lambda a: {name: array.astype(float) for name, array in a.items()},
}


@pytest.mark.parametrize("place", PLACES)
def test_the_network_is_found_wherever_it_is(place):
    arrays = arrays_of("dit")
    table, (_, params) = fitted("dit", weights.state_dict(PLACES[place](arrays)))
    back = weights.published_arrays(params, table)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)


def test_an_average_that_lacks_something_is_not_passed_over():
    arrays = arrays_of("dit")
    average = {name: array for name, array in arrays.items() if name != "pos_embed"}
    with pytest.raises(UserError, match="1 missing: pos_embed"):
        fitted("dit", weights.state_dict({"model": arrays, "ema": average}))


def test_constants_may_be_absent_but_not_others():
    (like, known), params = known_of("song_unet"), random_params("song_unet")
    arrays = weights.published_arrays(params, known["edm"])
    constants = {tensor.name for tensor in known["edm"] if not tensor.path}
    assert len(constants) == 5  # two for each block that resamples, one for the image
    bare = {name: a for name, a in arrays.items() if name not in constants}
    program, again = weights.fit(weights.StateDict(bare, []), known, like)
    assert program == "edm"
    assert equal(again, params)
    name = next(iter(constants))
    other = arrays | {name: arrays[name] + 1}
    with pytest.raises(UserError, match=f"1 unfit: {name} .not the values"):
        weights.fit(weights.StateDict(other, []), known, like)


def test_an_average_alone_is_enough_where_all_is_trained():
    (like, known), params = known_of("ddpmpp"), random_params("ddpmpp")
    table = known["score_sde_pytorch"]
    arrays = weights.published_arrays(params, table)
    trained = [arrays[tensor.name] for tensor in table if tensor.path]
    state = weights.state_dict({"ema": {"decay": 0.9, "shadow_params": trained}})
    program, again = weights.fit(state, known, like)
    assert program == "score_sde_pytorch"
    assert equal(again, params)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_numpy_in_a_pickle(protocol, tmp_path):
    arrays = arrays_of("dit")
    arrays["x_embedder.proj.bias"] = arrays["x_embedder.proj.bias"].astype(">f4")
    columns = {name: np.asfortranarray(array) for name, array in arrays.items()}
    state = read(tmp_path, pickle.dumps(columns, protocol))
    table, (_, params) = fitted("dit", state)
    back = weights.published_arrays(params, table)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)
    state = read(tmp_path, pickle.dumps({"pos_embed": np.array([None])}, protocol))
    with pytest.raises(UserError, match="'pos_embed' in the file is an array that can"):
        fitted("dit", state)


def test_what_training_keeps_beside_the_weights_does_not_stop_a_file(tmp_path):
    state = {
        "args": argparse.Namespace(results=Path("runs"), lr=1e-4),
        "losses": collections.defaultdict(list, {"train": [0.5]}),
        "random": np.random.RandomState(0).get_state(),
        "best": np.float64(0.5),
        "seen": frozenset({1, 2}),
        "when": datetime.datetime(2026, 1, 1),
        "ema": arrays_of("dit"),
    }
    for protocol in (2, 4):
        fitted("dit", read(tmp_path, pickle.dumps(state, protocol)))


def test_files_beside_an_index_are_one(tmp_path):
    arrays, index = arrays_of("dit"), tmp_path / "model.safetensors.index.json"
    places = {name: f"{i % 2}.safetensors" for i, name in enumerate(arrays)}
    for file in set(places.values()):
        own = {name: a for name, a in arrays.items() if places[name] == file}
        save_file(own, tmp_path / file)
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    table, (_, params) = fitted("dit", weights.state_dict(weights.read(index)))
    back = weights.published_arrays(params, table)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(UserError, match="no file .*1.safetensors"):
        weights.read(index)
    for text in ("{", "{}", '{"weight_map": {"a": "../b"}}', '{"weight_map": [1]}'):
        index.write_text(text)
        with pytest.raises(UserError, match="is no index of files"):
            weights.read(index)


def test_all_that_does_not_fit_is_listed_at_once():
    arrays = arrays_of("dit")
    del arrays["pos_embed"]
    arrays["blocks.0.attn.qkv.weight"] = arrays["blocks.0.attn.qkv.weight"].T
    arrays["blocks.7.attn.qkv.weight"] = np.zeros((3, 3), np.float32)
    arrays["final_layer.linear.bias"] = np.full(32, np.nan, np.float32)
    arrays["x_embedder.proj.bias"] = np.zeros(48, np.int32)
    with pytest.raises(UserError) as error:
        fitted("dit", weights.StateDict(arrays, []))
    for part in (
        "1 missing: pos_embed",
        "1 unused: blocks.7.attn.qkv.weight",
        "1 misshapen: blocks.0.attn.qkv.weight [48, 144], not [144, 48]",
        "2 unfit: final_layer.linear.bias (not finite), x_embedder.proj.bias (int32",
    ):
        assert part in str(error.value)


def test_running_means_of_a_batch_norm_are_named_and_refused():
    arrays = arrays_of("dit")
    for name, dtype in {"running_mean": "f4", "num_batches_tracked": "i8"}.items():
        arrays[f"blocks.0.norm1.{name}"] = np.ones((), dtype)
    with pytest.raises(UserError, match=r"1 unused: blocks.0.norm1.running_mean"):
        fitted("dit", weights.StateDict(arrays, []))


def test_the_weights_of_another_network_are_refused():
    with pytest.raises(UserError, match=r"63 missing: .*\n  32 unused: .* and 24 more"):
        fitted("edm2", weights.StateDict(arrays_of("dit"), []))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def hostile_files(hostile, made):
    arrays = arrays_of("dit")
    at_top = pickle.dumps(hostile)
    return {
        "at the top": at_top,
        "protocol 0": pickle.dumps(hostile, 0),
        "in a dict": pickle.dumps({"ema": {"pos_embed": hostile}}),
        "in a zip": torch_stubs.zipped({"ema": arrays, "args": hostile}, made),
        "in a legacy file": torch_stubs.legacy({"ema": arrays, "args": hostile}, made),
        "in an EDM module": torch_stubs.edm({"unet.out_gain": hostile}, made),
        "in a tensor's bytes": pickle.dumps({"ema": Nested(made["bytes"], at_top)}, 4),
    }


class Nested:
    def __init__(self, load, data):
        self.load, self.data = load, data

    def __reduce__(self):
        return self.load, (self.data,)


@pytest.mark.parametrize("where", range(7))
def test_a_hostile_pickle_is_named_and_not_executed(where, made, tmp_path):
    proof = tmp_path / "executed"
    name, data = list(hostile_files(Hostile(proof), made).items())[where]
    with pytest.raises(UserError, match=r"to import '(posix|os)\.system'"):
        read(tmp_path, data)
    assert not proof.exists(), name


def test_what_calls_no_name_or_sets_no_container_is_refused(tmp_path):
    for data in (
        b"\x80\x02K\x01)R.",  # calls the number 1
        b"\x80\x02K\x01(K\x02e.",  # appends to a number
        b"\x80\x02h\x07.",  # reads what was never put there
        b"\x80\x02}K\x01K\x02.",  # leaves things behind, as no weights
    ):
        with pytest.raises(UserError):
            read(tmp_path, data)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_file_cut_off_anywhere_is_one_clear_error(wrapped, made, tmp_path):
    name, write = WRAPPED[wrapped]
    data = write(arrays_of(name), made)
    for length in np.linspace(0, len(data) - 1, 15).astype(int):
        with pytest.raises(UserError):
            read(tmp_path, data[:length])


def test_tensors_stay_inside_their_memory():
    memory = records.Storage(np.dtype(np.float32), 6)
    memory.array = np.arange(6, dtype=np.float32)
    view = records.Strided
    np.testing.assert_array_equal(
        view(memory, 1, (2, 2), (1, 2)).array(), [[1, 3], [2, 4]]
    )
    for bad in (
        view(memory, 3, (2, 2), (2, 1)),
        view(memory, -1, (2,), (1,)),
        view(memory, 0, (2,), (-1,)),
        view(memory, 0, (10**9, 10**9), (0, 0)),
        view(memory, 0, (2,), (1, 1)),
    ):
        with pytest.raises(ValueError, match="a tensor"):
            bad.array()


def test_what_is_no_weight_file_is_said_to_be_none(tmp_path):
    for data in (b"", b"hello, world, this is text", b"\x89PNG\r\n\x1a\n" + bytes(20)):
        with pytest.raises(UserError, match="no weight file|damaged"):
            read(tmp_path, data)
    with pytest.raises(UserError, match="a pointer to a file that git lfs has"):
        read(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="no file"):
        weights.read(tmp_path / "none")
    with pytest.raises(UserError, match="has no tensors"):
        read(tmp_path, pickle.dumps({"step": {}}))
    with pytest.raises(UserError, match="has no tensors"):
        read(tmp_path, pickle.dumps({"note": "hi", "size": [1, 2.0]}))
    with pytest.raises(UserError, match="is a folder; give a file in it"):
        weights.read(tmp_path)


def program(name, *arguments, code=0):
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    out = done.stdout + done.stderr
    assert done.returncode == code, out
    assert "Traceback" not in out
    return out


DIT = [
    "--network=dit",
    "--config.network.hidden_size=48",
    "--config.network.depth=2",
    "--config.network.num_heads=3",
    "--config.data.num_classes=5",
    "--config.conditions.label={}",
    "--config.data.shape=(8,8,4)",
    "--config.data.num_levels=0",
    "--config.precondition.name=chain",
    "--config.grid.num_steps=2",
    "--config.sampling.num_samples=4",
    "--config.sampling.batch_size=4",
]


@pytest.mark.slow
def test_imported_weights_are_a_run_that_samples_and_exports(made, tmp_path):
    arrays = arrays_of("dit")
    file, workdir = tmp_path / "dit.pt", tmp_path / "run"
    file.write_bytes(torch_stubs.zipped({"model": zeros(arrays), "ema": arrays}, made))
    out = program("import_weights", f"--from={file}", f"--workdir={workdir}", *DIT)
    assert "32 tensors of dit, 107,216 parameters" in out
    assert {path.name for path in workdir.iterdir()} == {
        "checkpoints",
        "config.json",
        "environment.json",
        "imported.json",
        "inputs.json",
    }
    assert "samples of heun" in program("sample", f"--workdir={workdir}")
    samples = np.load(workdir / "samples.npz")
    assert samples["samples"].shape == (4, 8, 8, 4)
    assert samples["success"].all()
    exported = tmp_path / "out.safetensors"
    program("export_weights", f"--workdir={workdir}", f"--to={exported}")
    # Whoever may read the run may read the file.
    assert exported.stat().st_mode == (workdir / "config.json").stat().st_mode
    assert_same_tensors(load_file(exported), arrays)
    with pytest.raises(UserError, match="is in use"):  # nothing is written over
        imported(file, workdir, *DIT)
    command = launch.parse("", [f"--workdir={workdir}"], flags=train.FLAGS)
    with pytest.raises(UserError, match="data.name is 'absent'"):
        train.main(command)


def assert_same_tensors(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)


def imported(file, workdir, *arguments):
    """Import in this process, which is faster."""
    options = dict(
        options=import_weights.OPTIONS, default=import_weights.default_config
    )
    words = [f"--from={file}", f"--workdir={workdir}", *arguments]
    import_weights.main(launch.parse("", words, **options))


def test_a_file_states_the_meaning_of_its_tensors_and_nothing_else(tmp_path):
    file = tmp_path / "a.safetensors"
    empty = {"tensor": np.zeros(1, np.float32)}
    said = {
        "network": {"name": "unet", "channels": 8},
        "precondition": {"name": "v"},
        "chain": {},
        "sde": {"name": "vp"},
        "data": {"shape": [8, 8, 1], "num_levels": 17, "num_classes": 10}
        | {"sigma_data": 0.7, "points": "centres", "path": "elsewhere"},
        "conditions": {"label": {}, "image": {}},
        "likelihood": {"dequantisation": "truncated_normal", "num_train": 9},
        "parts": ["hostile.py"],
    }
    options = {"network": "unet", "from": str(file)}
    save_file(empty, file, metadata={ABOUT: json.dumps(said)})
    config = import_weights.default_config(options)
    assert config["network"] == said["network"]
    assert config["precondition"] == {"name": "v"}
    assert config["data"]["sigma_data"] == 0.7
    assert config["data"]["points"] == "centres"
    assert config["likelihood"] == {"dequantisation": "truncated_normal"}
    assert config["conditions"] == {"label": {}}
    assert "path" not in config["data"]
    assert "parts" not in config
    # Of another network it says nothing.
    other = import_weights.default_config(options | {"network": "song_unet"})
    assert other == import_weights.default_config({"network": "song_unet"})
    del said["sde"]
    for text in (json.dumps(said), "no JSON", "[]"):
        save_file(empty, file, metadata={ABOUT: text})
        with pytest.raises(ValueError, match="score_sde.config is damaged"):
            import_weights.default_config(options)


def test_an_import_that_fails_leaves_nothing(made, tmp_path):
    proof, file = tmp_path / "executed", tmp_path / "file"
    workdir = tmp_path / "run"
    good = torch_stubs.zipped(arrays_of("dit"), made)
    hostile = pickle.dumps({"ema": Hostile(proof)})
    for data, message in (
        (hostile, "import 'posix.system'"),
        (good[:-100], "damaged or cut off"),
        (torch_stubs.edm(arrays_of("edm2"), made), "63 unused"),
    ):
        file.write_bytes(data)
        with pytest.raises(UserError, match=message):
            imported(file, workdir, *DIT)
        assert {path.name for path in tmp_path.iterdir()} == {"file"}
    with pytest.raises(SystemExit):  # a network that nobody published
        imported(file, workdir, "--network=dit/DiT-XXL")


@pytest.mark.slow
def test_a_run_goes_out_and_comes_in_to_be_scored_and_trained(tmp_path):
    """Of a network that nobody published, by our own names, on data that are here."""
    tiny = [
        "--config.network.channels=8",
        "--config.network.blocks_per_level=1",
        "--config.network.multipliers=(1,2)",
    ]
    short = [
        "--config.train.num_steps=2",
        "--config.optimizer.warmup_steps=1",
        "--config.data.batch_size=8",
    ]
    first, second, file = tmp_path / "a", tmp_path / "b", tmp_path / "a.safetensors"
    config = "--config=configs/digits.py"
    program("train", config, f"--workdir={first}", *tiny, *short)
    program("export_weights", f"--workdir={first}", f"--to={file}")
    out = program("export_weights", f"--workdir={first}", f"--to={file}", code=2)
    assert "which is there already" in out
    # The file says what the network is, and what its output means.
    program(
        "import_weights",
        f"--from={file}",
        f"--workdir={second}",
        "--network=unet",
        "--config.data.name=digits",
        *short,
    )
    x = np.random.RandomState(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    ours, theirs = (open_run(folder).denoiser(x, 0.3) for folder in (first, second))
    np.testing.assert_array_equal(ours, theirs)
    again = tmp_path / "b.safetensors"
    program("export_weights", f"--workdir={second}", f"--to={again}")
    assert_same_tensors(load_file(again), load_file(file))
    out = program("train", f"--workdir={second}")
    assert "resuming from step 0" in out
    assert "step       2/2" in out
    quick = {"rtol": 0.01, "atol": 0.01, "batch_size": 120, "num_checked": 4}
    quick |= {"num_train": 0, "bound_draws": 2}
    fields = [f"--config.likelihood.{k}={v}" for k, v in quick.items()]
    out = program("likelihood", f"--workdir={second}", *fields)
    assert "360 examples" in out


@pytest.mark.slow
def test_averages_of_any_width_become_runs(tmp_path):
    workdir = tmp_path / "run"
    fields = {
        "network.channels": 8,
        "network.blocks_per_level": 1,
        "train.num_steps": 4,
        "train.snapshot_every": 1,
        "train.power_ema_stds": (0.05, 0.1),
        "optimizer.warmup_steps": 1,
        "data.batch_size": 8,
        "grid.num_steps": 2,
        "sampling.num_samples": 4,
    }
    words = [f"--config.{k}={v}" for k, v in fields.items()]
    program("train", "--config=configs/digits.py", f"--workdir={workdir}", *words)
    assert len(list((workdir / "averages").glob("*.npz"))) == 8
    out = program("reconstruct_ema", f"--workdir={workdir}", "--std=0.05,0.08")
    assert "ema_0.08: the average of width 0.08 at step 4" in out
    out = program("sample", f"--workdir={workdir}/ema_0.08")
    assert "4 samples of heun" in out
    for std, message in (("0.3", "must be in"), ("x", "give numbers")):
        arguments = (f"--workdir={workdir}", f"--std={std}")
        assert message in program("reconstruct_ema", *arguments, code=2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_configuration_makes_a_config(name):
    experiment = build.build(import_weights.default_config({"network": name}))
    assert experiment.dataset.shape == PUBLISHED[name].shape
    sigmas = np.asarray(experiment.drawing.grid())
    assert sigmas[0] == pytest.approx(PUBLISHED[name].sigma_max)
