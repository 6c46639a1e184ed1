"""Feature networks against the published programs' outputs, and how they are used."""

import gzip
import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded_weights
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_images

from score_sde import evaluation, resizing
from score_sde.data import Dataset
from score_sde.evaluation import FEATURES
from score_sde.evaluation.extractor import BATCH
from score_sde.evaluation.features import LITE0_PACKAGE, dinov2_maker
from score_sde.evaluation.resizing import RESIZES
from score_sde.fields import fields_of
from score_sde.run.perceptual import PERCEPTUAL, perceptual_problems
from score_sde.types import UserError
from score_sde.weights import parameters_of_files

GOLDEN = Path(__file__).parent / "golden" / "evaluation"
STAGES = {
    case["id"]: case
    for case in json.loads((GOLDEN / "networks.cases.json").read_text())
    if "stages" in case
}
TOLERANCE = 1e-5
"""Of the largest value: ten times what float32 costs."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Most cases are of two images: no time goes to padding."""
    monkeypatch.setitem(BATCH, "cpu", 2)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "networks.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def published():
    """Names and shapes of the entries of published state dicts."""
    with gzip.open(GOLDEN / "names.json.gz") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory, published):
    """A function: network -> a file of its seeded weights, with some replaced."""
    folder = tmp_path_factory.mktemp("weights")

    def make(network, names=None, **replaced):
        path = folder / f"{network}.safetensors"
        if not path.exists():
            arrays = {
                name: seeded_weights.tensor(name, tuple(shape))
                for name, shape in names or published[network]
            }
            save_file({**arrays, **replaced}, path)
        return str(path)

    return make


def check(ours, theirs):
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(
        ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max()
    )


def test_seeded_weights_are_those_that_the_references_used():
    first = seeded_weights.tensor("Conv2d_1a_3x3.conv.weight", (32, 3, 3, 3))
    assert first.sum(dtype=np.float64) == -10.957686093068332
    bias = seeded_weights.tensor("fc.bias", (1008,))
    assert bias.sum(dtype=np.float64) == -0.34223900010692887


# Resizing

SIZES = ["6x5to9x11", "8x8to8x8", "13x7to5x4", "4x4to16x16"]


@pytest.mark.parametrize("size", SIZES)
def test_resizing_matrices_are_those_of_the_programs(size, golden):
    case = f"resize/seed0/{size}"
    picture = golden[f"{case}/in"].astype(float)
    ways = {
        "tf1": resizing.corner_matrix,
        "tb": lambda a, b: resizing.centre_matrix(a, b, resizing.triangle, 1),
        "tba": lambda a, b: resizing.antialias_matrix(a, b, resizing.cubic(-0.5), 2),
        "pb": lambda a, b: resizing.antialias_matrix(a, b, resizing.cubic(-0.5), 2),
        "pl": lambda a, b: resizing.antialias_matrix(a, b, resizing.triangle, 1),
    }
    for name, matrix in ways.items():
        theirs = golden[f"{case}/{name}"]
        rows, columns = (
            matrix(a, b) for a, b in zip(picture.shape, theirs.shape[:2], strict=False)
        )
        ours = np.einsum("ri,cj,ijk->rck", rows, columns, picture)
        if name == "pb":  # in clean-fid's reference, which clips
            ours = np.clip(ours, 0, 255)
        digits = 1e-12 if theirs.dtype == np.float64 else 2e-7
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=255 * digits)


@pytest.mark.parametrize(("case", "side"), [("8x8to8x8", 8), ("4x4to16x16", 16)])
def test_named_ways_are_those_of_the_programs(case, side, golden):
    case = f"resize/seed0/{case}"
    picture = golden[f"{case}/in"][None]
    programs = {"tf1": "tf1", "pytorch-fid": "tb", "clean": "pb", "pillow": "pbu"}
    for way, name in programs.items():
        ours = RESIZES[way](picture, side)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours[0], golden[f"{case}/{name}"], rtol=0, atol=5e-5)


def test_images_that_are_not_resized_must_have_the_size(golden):
    picture = golden["resize/seed0/4x4to16x16/in"][None]
    with pytest.raises(ValueError, match=r"\(4, 4\); with resize='none'"):
        RESIZES["none"](picture, 16)


# Networks


@pytest.fixture
def network_of(monkeypatch):
    """A function: options of features -> what their extractor is made of."""

    def make(features, **options):
        seen = {}

        def record(name, module, **given):
            seen.update(given, name=name, module=module)

        with monkeypatch.context() as patch:
            patch.setattr("score_sde.evaluation.features.network_extractor", record)
            features(**options)
        return SimpleNamespace(**seen)

    return make


def outputs_of(network, x):
    """All outputs of a network at once, and those of its layers by name."""
    files = [Path(path) for path in network.weights]
    params = parameters_of_files(network.module, network.shape, files, network.tables)

    @jax.jit
    def apply(params, x):
        return network.module.apply(
            {"params": params},
            x,
            capture_intermediates=lambda module, _: len(module.path) == 1,
            mutable=["intermediates"],
        )

    with jax.default_matmul_precision("highest"):
        out, state = apply(params, x)
    layers = {
        k: v["__call__"][0]
        for k, v in state["intermediates"].items()
        if "__call__" in v
    }
    return jax.tree.map(np.asarray, (out, layers))


def check_stages(layers, case):
    """Hold means, deviations, extremes and corners of layers against a case's."""
    names = [name for name in case["stages"] if name in layers]
    for name in names:
        told, layer = case["stages"][name], layers[name]
        size = told["mean_std_absmax"][2]
        ours = [layer.mean(dtype=float), layer.std(dtype=float), np.abs(layer).max()]
        # A mean over many numbers has the error of the largest of them, or less.
        close = {"rtol": 0, "atol": TOLERANCE * size}
        np.testing.assert_allclose(ours, told["mean_std_absmax"], **close)
        corner = (0,) * (layer.ndim - 2)
        np.testing.assert_allclose(layer[0][corner][:4], told["first"], **close)
        end = (-1,) * (layer.ndim - 2)
        np.testing.assert_allclose(layer[-1][end][-4:], told["last"], **close)
    return len(names)


@pytest.mark.parametrize("size", ["32x32"])
def test_inception(size, golden, weight_file):
    features = FEATURES["inception"](weights=weight_file("inception_v3_fid"))
    case = f"inception/seed0/{size}"
    check(features(golden[f"{case}/images"]), golden[f"{case}/2048"])


@pytest.mark.slow
@pytest.mark.parametrize("size", ["32x32", "40x64"])
def test_inception_at_every_output_and_resize(size, golden, weight_file, network_of):
    """All that one image gives, of one pass over its three resizes."""
    case, path = f"inception/seed0/{size}", weight_file("inception_v3_fid")
    make, images = FEATURES["inception"], golden[f"{case}/images"]
    ways = {"tf1": "", "pytorch-fid": "pytorch_fid/", "clean": "clean/"}
    networks = [network_of(make, weights=path, resize=way) for way in ways]
    x = np.concatenate([network.prepare(images) for network in networks])
    out, layers = outputs_of(networks[0], x)
    for i, name in enumerate(ways.values()):
        check(out["2048"][2 * i : 2 * i + 2], golden[f"{case}/{name}2048"])
    for output in ("64", "192", "768", "logits_unbiased", "logits", "spatial"):
        name = "sfid_spatial" if output == "spatial" else output
        check(out[output][:2], golden[f"{case}/{name}"])
    own = {k: (v[0] if isinstance(v, tuple) else v)[:2] for k, v in layers.items()}
    assert check_stages(own, STAGES[f"{case}/tf1_resize"]) == 16


@pytest.fixture(scope="module")
def lpips_vgg(golden, published, weight_file):
    folder = "lpips/heads/"
    heads = {k[len(folder) :]: v for k, v in golden.items() if k.startswith(folder)}
    return FEATURES["lpips_vgg"](weights=weight_file("lpips_vgg16", **heads))


@pytest.mark.parametrize("size", ["32x32", "48x64"])
def test_lpips(size, golden, lpips_vgg):
    case = f"lpips_vgg/seed0/{size}"
    a, b, theirs = (golden[f"{case}/{name}"] for name in ("a", "b", "d"))
    for i in range(2):
        ours = evaluation.lpips(a[i : i + 1], b[i : i + 1], embed=lpips_vgg)
        assert ours.value == pytest.approx(theirs[i], rel=TOLERANCE)
    both = evaluation.lpips(a, b, embed=lpips_vgg)
    assert both.value == pytest.approx(theirs.mean(), rel=TOLERANCE)
    assert both.low < both.value < both.high
    # Embeddings are those of the layers, one after another.
    height, width = (int(n) for n in size.split("x"))
    channels = (64, 128, 256, 512, 512)
    lengths = [c * (height >> i) * (width >> i) for i, c in enumerate(channels)]
    squares = (lpips_vgg(a) - lpips_vgg(b)).astype(float) ** 2
    for part, layer in zip(
        np.split(squares, np.cumsum(lengths)[:-1], axis=1),
        golden[f"{case}/per"],
        strict=True,
    ):
        np.testing.assert_allclose(part.sum(1), layer, rtol=TOLERANCE)
    assert evaluation.lpips(a, a, embed=lpips_vgg).value == 0
    with pytest.raises(ValueError, match="y has shape"):
        evaluation.lpips(a, b[:1], embed=lpips_vgg)


def tiny_dinov2_names(published):
    sizes = {384: 48, 1152: 144, 1536: 192}
    names = []
    for name, shape in published["dinov2_vits14"]:
        words = name.split(".")
        if words[0] != "blocks" or int(words[1]) < 3:
            names.append((name, [sizes.get(n, n) for n in shape]))
    return names


@pytest.mark.parametrize(
    "output", [("class_token", "cls"), ("patch_mean", "pm")], ids=lambda o: o[0]
)
def test_dinov2_with_resized_positions(output, golden, published, weight_file):
    path = weight_file("tiny_dinov2", tiny_dinov2_names(published))
    make = dinov2_maker("tiny", 48, 3, 3)
    features = make(weights=path, output=output[0], resize="none")
    case = "dinov2/tiny/seed0/224x224"
    check(features(golden[f"{case}/images"]), golden[f"{case}/{output[1]}"])


def test_dinov2_of_sides_that_differ(golden, published, weight_file):
    import jax

    from score_sde import weights
    from score_sde.networks.features import dinov2
    from score_sde.weights.published.features import tensors_of

    case = "dinov2/tiny/seed0/98x70"
    x = (golden[f"{case}/images"] / np.float32(255) - dinov2.MEAN) / dinov2.STD
    module = dinov2.DINOv2(48, 3, 3)
    like = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    path = Path(weight_file("tiny_dinov2", tiny_dinov2_names(published)))
    state = weights.state_dict(weights.read(path))
    _, params = weights.fit(state, {"published": tensors_of(like)}, like)
    with jax.default_matmul_precision("highest"):
        out = module.apply({"params": params}, x)
    check(np.asarray(out["class_token"]), golden[f"{case}/cls"])
    check(np.asarray(out["patch_mean"]), golden[f"{case}/pm"])


@pytest.mark.slow
def test_dinov2_s14(golden, weight_file, network_of):
    path = weight_file("dinov2_vits14")
    network = network_of(FEATURES["dinov2_s14"], weights=path)
    case = "dinov2/vits14/seed0/224x224"
    out, layers = outputs_of(network, network.prepare(golden[f"{case}/images"]))
    check(out["class_token"], golden[f"{case}/cls"])
    check(out["patch_mean"], golden[f"{case}/pm"])
    assert check_stages(layers, STAGES[case]) == 12


@pytest.mark.slow
def test_dinov2_registers_and_gates_have_the_published_parameters():
    import jax
    import jax.numpy as jnp

    from score_sde.networks import count_parameters
    from score_sde.networks.features.dinov2 import DINOv2

    counts = {  # without the mask token, width of them
        (384, 12, 6, False, 0): 22_056_576,
        (384, 12, 6, False, 4): 22_058_112,
        (768, 12, 12, False, 0): 86_580_480,
        (1024, 24, 16, False, 0): 304_368_640,
        (1536, 40, 24, True, 0): 1_136_480_768,
    }
    for options, count in counts.items():
        x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        shapes = jax.eval_shape(DINOv2(*options).init, jax.random.key(0), x)
        assert count_parameters(shapes) == count


# A real network


def has_lite0():
    try:
        return bool(metadata.files(LITE0_PACKAGE))
    except metadata.PackageNotFoundError:
        return False


needs_lite0 = pytest.mark.skipif(not has_lite0(), reason="the extra 'features'")


@pytest.fixture(scope="module")
def photographs():
    """A temple and a dahlia, 224 x 224."""
    china, flower = load_sample_images().images
    return np.stack([picture[100:324, 200:424] for picture in (china, flower)])


@needs_lite0
def test_efficientnet_lite0_names_what_photographs_show(photographs):
    make = FEATURES["efficientnet_lite0"](output="logits")
    logits = make(photographs)
    with np.load(GOLDEN / "efficientnet_lite0.npz") as theirs:
        check(logits, np.stack([theirs["china/logits"], theirs["flower/logits"]]))
    squares = np.stack([p[:, 106:533] for p in load_sample_images().images])
    assert make(squares).argmax(1).tolist() == [698, 985]  # palace, daisy


@needs_lite0
def test_efficientnet_lite0_gives_features_whatever_the_batch(photographs):
    with np.load(GOLDEN / "efficientnet_lite0.npz") as theirs:
        theirs = np.stack([theirs["china/features"], theirs["flower/features"]])
    pictures = np.concatenate([photographs, photographs[:, ::-1], photographs[:1]])
    features = FEATURES["efficientnet_lite0"]()
    together = features(pictures)
    check(together[:2], theirs)
    assert features.identity["weights"].startswith("57934424")
    assert features.identity["resize"] == "clean"
    apart = np.concatenate([features(pictures[:3]), features(pictures[3:])])
    np.testing.assert_array_equal(apart, together)
    np.testing.assert_array_equal(together[4], together[0])


@needs_lite0
def test_the_distance_of_an_autoencoder_sees_what_a_photograph_shows(photographs):
    """By EfficientNet-Lite0: of centres of bins, in one channel or three."""
    temple, flower = 2 * ((photographs + 0.5) / 256).astype(np.float32) - 1
    dataset = Dataset("photographs", (64, 64, 3), 256, 0, lambda split: None)
    distance = jax.jit(PERCEPTUAL["efficientnet_lite0"](dataset, "", ""))
    x = jnp.asarray(temple[None, 64:128, 64:128])
    found = [
        float(distance(x, jnp.asarray(other))[0])
        for other in (x, np.clip(x * 1.1, -1, 1), x[:, ::-1], flower[None, :64, :64])
    ]
    assert found[0] < 1e-12
    assert 0 < found[1] < found[2] < found[3]
    grey = x.mean(-1, keepdims=True)
    three = jnp.repeat(grey, 3, axis=-1)
    assert float(distance(grey, three)[0]) < 1e-12
    slope = jax.grad(lambda y: distance(x, y).sum())(x)
    assert np.isfinite(slope).all()


def test_a_distance_that_data_cannot_have_is_refused(monkeypatch):
    small = perceptual_problems("efficientnet_lite0", "a.pth", (8, 8, 1), 10)
    assert small == [
        "perceptual is 'efficientnet_lite0'; images of (8, 8) are smaller than 16"
    ]

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    (text,) = perceptual_problems("efficientnet_lite0", "", (32, 32, 3), 10)
    assert "pip install 'score_sde[features]'" in text


# How they are used


def test_a_grey_image_is_three_equal_channels(golden, lpips_vgg):
    grey = golden["lpips_vgg/seed0/32x32/a"][..., :1]
    np.testing.assert_array_equal(lpips_vgg(grey), lpips_vgg(grey.repeat(3, -1)))


def test_pixels_are_the_images_laid_flat():
    images = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    features = FEATURES["pixels"]()(images)
    assert features.dtype == np.float32
    expected = images.reshape(4, 12) / 127.5 - 1
    np.testing.assert_allclose(features, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "hold float32; they must hold uint8"),
        (np.zeros((2, 4, 4, 3), int), "hold int64"),
        (np.zeros((4, 4, 3), np.uint8), "have shape"),
        (np.zeros((2, 4, 4, 4), np.uint8), "one channel or three"),
        (np.zeros((0, 4, 4, 3), np.uint8), "have shape"),
    ],
)
def test_what_are_no_images_is_refused(images, words):
    with pytest.raises(ValueError, match=words):
        FEATURES["pixels"]()(images)


def test_constructors_refuse_wrong_options_before_any_file(tmp_path):
    with pytest.raises(ValueError, match="resize is 'tf2'; did you mean 'tf1'"):
        FEATURES["inception"](weights="x", resize="tf2")
    with pytest.raises(ValueError, match="weights is ''"):
        FEATURES["inception"](weights="")
    with pytest.raises(ValueError, match="no file"):
        FEATURES["dinov2_l14"](weights=str(tmp_path / "none.pth"))


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "few.safetensors"
    save_file({"_fc.weight": np.zeros((1000, 1280), np.float32)}, path)
    with pytest.raises(UserError, match="missing"):
        FEATURES["efficientnet_lite0"](weights=str(path))


@pytest.mark.parametrize("name", FEATURES)
def test_every_constructor_states_its_options(name):
    for field in fields_of(FEATURES[name]).values():
        assert field.kind is not None
        assert field.rules or field.name in ("heads", "weights")
