import itertools
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from score_sde.runtime.mesh import Devices, make_mesh, put_batch, put_state
from score_sde.training.checkpoints import Checkpoints
from score_sde.training.compile import compile_train_step
from score_sde.training.loop import train
from score_sde.training.optimizer import Optimizer, make_optimizer, make_schedule
from score_sde.training.settings import Training
from score_sde.training.step import (
    ema_decay,
    init_state,
    make_train_step,
    whole_batch_gradient,
)
from score_sde.training.watch import NonFiniteLossError, Watch

# optax mixes its integer counters with floats.
pytestmark = pytest.mark.usefixtures("standard_promotion")
DEVICES = Devices()
PARAMS = {"w": np.asarray([2.0, -1.0], np.float32)}


def quadratic(key, params, batch, context):
    """|w - value|^2 per example, with noise from the key."""
    noise = 0.01 * jax.random.normal(key, batch["values"].shape, jnp.float32)
    return ((params["w"][None] - batch["values"] - noise) ** 2).sum(1)


def batch_of(step):
    return {
        "values": np.random.RandomState(step).normal(size=(8, 2)).astype(np.float32)
    }


def batches_from(batch_at):
    return lambda first: map(batch_at, itertools.count(first))


def prepared(loss=quadratic, **options):
    mesh = make_mesh(DEVICES)
    optimizer = make_optimizer(Optimizer(learning_rate=0.05), num_steps=100)
    step = make_train_step(
        whole_batch_gradient(loss),
        optimizer,
        seed=0,
        **{"ema_halflife_steps": 5.0, "ema_rampup_ratio": math.inf} | options,
    )
    return put_state(init_state(PARAMS, optimizer), mesh), step, mesh


def run(workdir, num_steps, loss=quadratic, test_losses=None, **settings):
    state, step, mesh = prepared(loss)
    defaults = {"log_every": 2, "sample_every": 4, "checkpoint_every": 3}
    return train(
        state,
        compile_train_step(step, state, DEVICES, mesh),
        batches_from(batch_of),
        settings=Training(num_steps=num_steps, **defaults | settings),
        mesh=mesh,
        workdir=workdir,
        evaluate=lambda state: {
            "test_loss": (test_losses or {}).get(int(state.step), 1.0)
        },
    )


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def test_one_step_is_adams():
    """Against optax by hand: gradient of the mean, then one AdamW update."""
    state, step, _ = prepared()
    new, metrics = step(state, batch_of(0))

    def mean(params):
        return quadratic(
            jax.random.fold_in(jax.random.key(0), 0), params, batch_of(0), None
        ).mean()

    value, gradient = jax.value_and_grad(mean)(PARAMS)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-6)
    norm = np.linalg.norm(gradient["w"])
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-6)
    # Adam's first step is the learning rate times the sign of the gradient.
    expected = PARAMS["w"] - 0.05 * np.sign(gradient["w"])
    np.testing.assert_allclose(new.params["w"], expected, rtol=1e-5)


def test_the_average_follows_its_closed_form():
    """After k steps: sum of 2^(-(k-i)/h) (1 - 2^(-1/h)) w_i, and the rest of w_0."""
    state, step, _ = prepared(ema_halflife_steps=5.0)
    decay = 0.5 ** (1 / 5)
    expected = PARAMS["w"].astype(np.float64)
    for i in range(7):
        state, _ = step(state, batch_of(i))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema_params["w"], expected, rtol=1e-5)


def test_the_half_life_is_a_half_life_and_ramps_up():
    decay = ema_decay(jnp.asarray(10_000), halflife_steps=100.0, rampup_ratio=math.inf)
    assert float(decay) ** 100 == pytest.approx(0.5, rel=1e-5)  # float32, 100 times
    # Early on it is 5 % of the steps taken (Karras et al. 2022).
    early = ema_decay(jnp.asarray(199), halflife_steps=100.0, rampup_ratio=0.05)
    assert float(early) ** 10 == pytest.approx(0.5, rel=1e-5)


def test_training_is_the_same_on_one_device_and_on_four():
    states = []
    for num_devices in (1, 4):
        state, step, _ = prepared()
        devices = np.asarray(jax.devices()[:num_devices]).reshape(-1, 1, 1)
        mesh = jax.sharding.Mesh(devices, ("data", "fsdp", "tensor"))
        compiled = compile_train_step(step, state, DEVICES, mesh)
        state = put_state(state, mesh)
        for i in range(5):
            state, _ = compiled(state, put_batch(batch_of(i), mesh))
        states.append(jax.device_get(state))
    # Sums over the batch are rounded in another order.
    np.testing.assert_allclose(states[0].params["w"], states[1].params["w"], rtol=1e-6)


def test_one_compilation_serves_a_run(tmp_path):
    traces = []

    def loss(key, params, batch, context):
        traces.append(1)
        return quadratic(key, params, batch, context)

    run(tmp_path, 10, loss)
    assert len(traces) == 1


def test_resuming_equals_no_interruption_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", 10)
    run(tmp_path / "parts", 4)  # checkpoints at steps 3 and 4
    run(tmp_path / "parts", 7)
    parts = run(tmp_path / "parts", 10)
    assert same(whole, parts)

    def rows(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows = {row["step"]: row["loss"] for row in map(json.loads, lines)}
        assert len(rows) == len(lines)  # no step twice
        return rows

    whole_rows, part_rows = rows("whole"), rows("parts")
    assert whole_rows.keys() <= part_rows.keys()
    assert [part_rows[10], part_rows[6]] == [whole_rows[10], whole_rows[6]]


def test_some_steps_are_traced(tmp_path, capsys):
    run(tmp_path, 12, profile_steps=3)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert f"traced: {tmp_path / 'profile'}" in capsys.readouterr().out


def test_a_run_that_is_done_is_done_at_once(tmp_path, capsys):
    first = run(tmp_path, 4)
    second = run(tmp_path, 4, loss=lambda *_: pytest.fail("trained again"))
    assert same(first, second)
    assert "is trained: 4 steps" in capsys.readouterr().out


def test_rows_of_an_interrupted_run_are_written_once(tmp_path):
    run(tmp_path, 4)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:  # a run that was killed after its last checkpoint
        file.write(json.dumps({"step": 6, "loss": 123.0}) + "\n" + '{"step": 8, "lo')
    run(tmp_path, 10)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert all(row["loss"] != 123.0 for row in rows)


def test_reports_go_to_terminal_file_and_tensorboard(tmp_path, capsys):
    run(tmp_path, 8)
    *_, last, end = capsys.readouterr().out.splitlines()
    parts = ("8/8  loss ", "images/s", "ms/step", "left")
    assert all(part in last for part in parts), last
    assert end.startswith("trained 8 steps in 0m0")
    assert all(part in end for part in ("% in steps", "compiling", "saving")), end
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    names = {"step", "loss", "gradient_norm", "skipped", "images_per_second"}
    names |= {"seconds_per_step", "data_wait", "save_seconds"}
    assert rows[-1].keys() == names | {"test_loss"}
    assert rows[0].keys() == names
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("loss")}
    assert logged[8] == pytest.approx(rows[-1]["loss"], rel=1e-6)


def poisonable(bad):
    """A loss that is not finite on batches of 77."""

    def loss(key, params, batch, context):
        broken = (batch["values"] == 77).any()
        return quadratic(key, params, batch, context) * jnp.where(
            broken, bad, 1.0
        ).astype(jnp.float32)

    return prepared(loss)


POISON = {"values": np.full((8, 2), 77, np.float32)}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_update_that_is_not_finite_leaves_the_state_as_it_was(bad):
    state, step, _ = poisonable(bad)
    state, _ = step(state, batch_of(0))
    after, metrics = step(state, POISON)
    assert metrics["skipped"]
    assert after.step == 2
    for now, before in zip(
        jax.tree.leaves(after._replace(step=0)),
        jax.tree.leaves(state._replace(step=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize(
    ("bad_steps", "stops_at"), [((5,), None), ((5, 7, 8), None), ((5, 6, 7), 7)]
)
def test_a_run_of_such_updates_stops_training_and_says_where(
    tmp_path, bad_steps, stops_at, capsys
):
    state, step, mesh = poisonable(np.nan)
    settings = Training(
        num_steps=12, log_every=6, checkpoint_every=4, sample_every=50, max_skipped=2
    )

    def go():
        train(
            state,
            compile_train_step(step, state, DEVICES, mesh),
            batches_from(lambda n: POISON if n + 1 in bad_steps else batch_of(n)),
            settings=settings,
            mesh=mesh,
            workdir=tmp_path,
            evaluate=lambda state: {},
        )

    if stops_at is None:
        go()
        rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
        skipped = sum(json.loads(row)["skipped"] for row in rows)
        assert skipped == len(bad_steps)
        taken = [json.loads(row)["loss"] for row in rows]
        assert all(loss is None or np.isfinite(loss) for loss in taken)
    else:
        with pytest.raises(
            NonFiniteLossError, match=f"nan at step {stops_at}, after 2"
        ):
            go()
    said = capsys.readouterr().err
    assert all(f"at step {n}: its update was left out" in said for n in bad_steps)
    with Checkpoints(tmp_path / "checkpoints", create=False) as checkpoints:
        assert checkpoints.newest_step() == (12 if stops_at is None else 4)
        like, _, _ = prepared()
        assert np.isfinite(checkpoints.restore(like).params["w"]).all()


def test_checkpoints_of_another_model_are_named(tmp_path):
    run(tmp_path, 3)
    optimizer = optax.adam(0.1)
    other = init_state({"w": jnp.zeros(3, jnp.float32), "b": jnp.zeros(1)}, optimizer)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(
            ValueError, match=r"w: float32\[2\] there, float32\[3\] here"
        ):
            checkpoints.restore(other)
        # Another type would be cast silently by the library below.
        half = {"w": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}
        with pytest.raises(
            ValueError, match=r"w: float32\[2\] there, bfloat16\[2\] here"
        ):
            checkpoints.restore_average(half)
        step, average = checkpoints.restore_average(PARAMS)
        assert step == 3
        assert average["w"].shape == (2,)


def test_no_checkpoint_is_an_error(tmp_path):
    with (
        Checkpoints(tmp_path / "none") as checkpoints,
        pytest.raises(FileNotFoundError, match="no checkpoint in"),
    ):
        checkpoints.restore_average(PARAMS)


def test_old_checkpoints_go(tmp_path):
    run(tmp_path, 12, keep_checkpoints=2)
    assert checkpoint_steps(tmp_path) == {9, 12}


def checkpoint_steps(workdir):
    folder = workdir / "checkpoints"
    return {int(p.name) for p in folder.iterdir() if p.name.isdigit()}


def test_checkpoints_to_keep_and_the_best_stay(tmp_path):
    """Of steps 2, 4, ... 16: the newest, multiples of 6, and the two best."""
    losses = {2: 0.5, 4: 0.1, 6: 0.9, 8: 0.3, 10: 0.2, 12: 0.7, 14: 0.6, 16: 0.8}
    often = {"checkpoint_every": 2, "sample_every": 2, "keep_checkpoints": 1}
    keeps = {"keep_every": 6, "keep_best": 2}
    run(tmp_path, 8, test_losses=losses, **often, **keeps)
    assert checkpoint_steps(tmp_path) == {4, 6, 8}
    # A run that goes on knows the test losses of those that are there.
    run(tmp_path, 16, test_losses=losses, **often, **keeps)
    assert checkpoint_steps(tmp_path) == {4, 6, 10, 12, 16}


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(
        ValueError, match="a batch of 6 can't be cut evenly over 4 devices"
    ):
        put_batch({"values": np.zeros((6, 2))}, make_mesh(DEVICES))


def test_donating_the_state_leaves_the_initial_parameters(tmp_path):
    params = jax.device_put(PARAMS["w"])
    mesh = make_mesh(DEVICES)
    placed = put_state({"w": params}, mesh)
    jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)(placed)
    np.testing.assert_array_equal(params, PARAMS["w"])


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adam(key):
    """All singular values of the update are alike; its size is 0.2 of the rate."""
    shapes = {
        "conv": {"kernel": (3, 3, 16, 32), "bias": (32,)},
        "norm": {"scale": (32,)},
    }
    is_shape = lambda s: isinstance(s, tuple)  # noqa: E731
    params = jax.tree.map(lambda s: jnp.zeros(s, jnp.float32), shapes, is_leaf=is_shape)
    # A gradient of 8 dominant directions out of 32.
    low_rank = jax.random.normal(key, (144, 8)) @ jax.random.normal(key, (8, 32))
    gradient = jax.tree.map(jnp.ones_like, params)
    kernel = low_rank + 0.3 * jax.random.normal(jax.random.key(1), (144, 32))
    gradient["conv"]["kernel"] = kernel.reshape(3, 3, 16, 32).astype(jnp.float32)
    settings = Optimizer(method="muon", learning_rate=0.1, adam_learning_rate=0.01)
    optimizer = make_optimizer(settings, num_steps=10)
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    matrix = np.asarray(update["conv"]["kernel"]).reshape(144, 32)
    singular = np.linalg.svd(matrix, compute_uv=False)
    before = np.linalg.svd(kernel, compute_uv=False)
    assert before[0] / before[-1] > 10
    # Five steps of Newton-Schulz end between 0.7 and 1.2 (Jordan et al. 2024).
    assert singular[0] / singular[-1] < 2
    assert np.sqrt((matrix**2).mean()) == pytest.approx(0.2 * 0.1, rel=0.25)
    # The first step of Adam with Nesterov momentum (Dozat 2016): b1 / (1 + b1) + 1.
    first = -0.01 * (0.9 / 1.9 + 1)
    np.testing.assert_allclose(update["norm"]["scale"], first, rtol=1e-3)
    np.testing.assert_allclose(update["conv"]["bias"], first, rtol=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse_sqrt"])
def test_schedules(schedule):
    settings = Optimizer(
        learning_rate=1.0, warmup_steps=10, schedule=schedule, decay_start_steps=40
    )
    rate = [
        float(make_schedule(settings, num_steps=110)(jnp.asarray(i)))
        for i in range(110)
    ]
    np.testing.assert_allclose(rate[:10], np.arange(1, 11) / 10, rtol=1e-6)
    after = np.arange(10, 110)
    expected = {
        "constant": np.ones(100),
        "cosine": 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (after - 10) / 100)),
        "inverse_sqrt": 1 / np.sqrt(np.maximum(after / 40, 1)),
    }[schedule]
    np.testing.assert_allclose(rate[10:], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Optimizer(learning_rate=-1.0),
            "learning_rate is -1.0; it must be > 0",
        ),
        (
            lambda: Optimizer(learning_rate=float("nan")),
            "learning_rate is nan; it must be a number",
        ),
        (lambda: Optimizer(schedule="linear"), "schedule is 'linear'; choose from"),
        (lambda: Training(num_steps=0), "num_steps is 0; it must be >= 1"),
        (
            lambda: Training(num_steps=1, ema_halflife_steps=0.0),
            "ema_halflife_steps is 0.0; it must be > 0",
        ),
        (lambda: Training(num_steps=1, log_every=0), "log_every is 0; it must be >= 1"),
    ],
)
def test_bad_settings_name_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_step_projects_its_parameters_first():
    """And averages of any width follow the parameters: all of the first, then less."""
    state, step, _ = prepared(
        project=lambda params: jax.tree.map(lambda p: p / 2, params),
        power_ema_stds=(0.1,),
    )
    state = state._replace(power_emas=(PARAMS,))
    half = state._replace(params=jax.tree.map(lambda p: p / 2, state.params))
    moved, _ = step(state, batch_of(0))
    expected, _ = prepared(power_ema_stds=(0.1,))[1](half, batch_of(0))
    np.testing.assert_array_equal(moved.params["w"], expected.params["w"])
    np.testing.assert_array_equal(moved.power_emas[0]["w"], moved.params["w"])


def test_frozen_parameters_do_not_decay():
    params = {"freqs": PARAMS["w"], "w": PARAMS["w"]}
    optimizer = make_optimizer(Optimizer(weight_decay=0.5), num_steps=100)
    step = make_train_step(
        whole_batch_gradient(quadratic),
        optimizer,
        seed=0,
        ema_halflife_steps=5.0,
        ema_rampup_ratio=math.inf,
        power_ema_stds=(0.1,),
    )
    state = init_state(params, optimizer, num_power_emas=1)
    for i in range(5):
        state, _ = step(state, batch_of(i))
    for kept in (state.params, state.ema_params, *state.power_emas):
        np.testing.assert_array_equal(kept["freqs"], params["freqs"])
        assert (kept["w"] != params["w"]).all()


def test_a_gradient_that_is_much_longer_than_usual_is_reported(capsys):
    watch = Watch(max_skipped=3, spike_factor=100.0)

    def row(norm, loss=1.0):
        good = np.isfinite(loss)
        return {"loss": loss, "gradient_norm": norm, "skipped": ~good}

    usual = [row(np.float32(1 + 0.01 * i)) for i in range(30)]
    watch.means(usual, last_step=30)
    assert capsys.readouterr().err == ""
    # As of two steps in one call.
    two = {name: np.asarray([a, a]) for name, a in row(np.float32(150.0)).items()}
    means = watch.means([row(np.float32(2.0)), two], last_step=33)
    # The median of 1, 1.01, ... 1.29 and 2, and then of the first spike too.
    assert capsys.readouterr().err.splitlines() == [
        "the gradient was 150 long at step 32, where 1.15 is usual.",
        "the gradient was 150 long at step 33, where 1.15 is usual.",
    ]
    assert means["gradient_norm"] == pytest.approx((2 + 150 + 150) / 3)
    assert watch.spiked
    watch.means([row(np.float32(1.0))], last_step=34)
    assert not watch.spiked


def test_a_loss_that_is_far_above_the_usual_is_reported(capsys):
    """In distances that are usual, so that losses around zero have none by chance."""
    watch = Watch(max_skipped=3, spike_factor=10.0)

    def rows(losses):
        return [{"loss": x, "gradient_norm": 1.0, "skipped": False} for x in losses]

    watch.means(rows([-0.1, 0.1] * 15), last_step=30)
    watch.means(rows([-5.0, 0.9]), last_step=32)  # better, and within 10 times 0.1
    assert not watch.spiked
    watch.means(rows([3.0]), last_step=33)  # the mean distance is 0.28 now
    assert capsys.readouterr().err == "the loss was 3 at step 33, where 0 is usual.\n"


def test_a_spike_takes_the_state_back_if_asked(tmp_path, capsys):
    """Training goes on with the batches behind it, from what the checkpoint has."""

    def spiked(key, params, batch, context):
        return quadratic(key, params, batch, context) * batch["factor"]

    def batch_at(step):
        factor = np.full(8, 1e6 if step == 32 else 1.0, np.float32)
        return batch_of(step) | {"factor": factor}

    def trained(workdir, num_steps, **settings):
        state, step, mesh = prepared(spiked)
        return train(
            state,
            compile_train_step(step, state, DEVICES, mesh),
            batches_from(batch_at),
            settings=Training(
                num_steps=num_steps, log_every=5, checkpoint_every=30, **settings
            ),
            mesh=mesh,
            workdir=workdir,
            evaluate=lambda state: {},
        )

    good = trained(tmp_path / "good", 30)
    state = trained(tmp_path / "run", 35, rollback=True)
    # The last step logs the spike, and ends with the state before it.
    assert int(state.step) == 35
    np.testing.assert_array_equal(state.params["w"], good.params["w"])
    assert "until step 30" in capsys.readouterr().out
    # What is saved then is what was gone back to, and training goes on.
    again = trained(tmp_path / "run", 36, rollback=True)
    expected, _ = jax.jit(prepared(spiked)[1])(
        good._replace(step=state.step), batch_at(35)
    )
    np.testing.assert_allclose(again.params["w"], expected.params["w"], rtol=1e-6)


def test_weights_and_biases_get_the_same_rows_if_asked(tmp_path, monkeypatch):
    """And the same run again when it is resumed."""
    calls = []

    class Fake:
        @staticmethod
        def init(**options):
            calls.append(options)
            return Fake

        @staticmethod
        def log(row, step):
            calls.append((step, row["loss"]))

        @staticmethod
        def finish():
            calls.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", Fake)
    run(tmp_path, 2)
    assert calls == []  # nobody asked
    monkeypatch.setenv("WANDB_PROJECT", "scores")
    run(tmp_path, 4)
    first, *_, row, last = calls
    run(tmp_path, 6)
    assert calls[4] == first
    assert first["project"] == "scores"
    assert first["resume"] == "allow"
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = {r["step"]: r["loss"] for r in map(json.loads, lines)}
    assert row == (4, rows[4])
    assert last == "finished"
