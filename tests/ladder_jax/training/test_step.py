"""The training step: compared with AdamW written out, on every mesh, and its state's sharding."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import (
    MeshConfig,
    OptimConfig,
    RunConfig,
)
from ladder_jax.models import decoder
from ladder_jax.models.protocol import PADDING
from ladder_jax.training import initialize, optimizer, step
from ladder_jax.training.schedule import schedule_of
from tests.helpers import MODEL


def mesh_of(**axes):
    config = MeshConfig(**axes)
    n = config.fsdp * config.tensor * max(config.data, 1)
    return parallel.make_mesh(replace(config, data=max(config.data, 1)), jax.devices()[:n])


def one_step(mesh, params, batch, constants=None):
    constants = constants or OptimConfig()
    params = jax.tree.map(jnp.array, params)  # the step donates its state
    moments = optimizer.transformation(MODEL, constants).init(params)
    state = initialize.TrainState(jnp.zeros((), jnp.int32), params, moments)
    state = jax.device_put(state, initialize.state_sharding(MODEL, constants, mesh))
    rows = jax.device_put({"tokens": batch[None]}, parallel.micro_batch_sharding(mesh))
    with parallel.use_mesh(mesh):
        return step.make_step(MODEL, constants, mesh)(
            state, rows, schedule_of(OptimConfig(lr_peak=0.1), 10)
        )


BATCH = np.random.default_rng(0).integers(0, 304, (8, 17)).astype(np.int32)


def test_one_step_is_adamw_written_out():
    """The step equals AdamW, clipping and both loss terms in numpy, with the paper's settings."""
    params = decoder.init_params(MODEL, jax.random.key(0))
    batch = BATCH.copy()
    batch[0, 9:] = PADDING

    def objective(p):
        inputs, targets = np.maximum(batch[:, :-1], 0), batch[:, 1:]
        logits = decoder.bind(MODEL, p)(inputs)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        gold = jnp.take_along_axis(logits, np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        counted = targets != PADDING
        ce = jnp.sum((log_z - gold) * counted) / counted.sum()
        return ce + 1e-5 * jnp.sum(log_z**2 * counted) / counted.sum(), ce

    (_, loss), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    state, metrics = one_step(mesh_of(data=1), params, batch)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    lr = float(metrics["lr"])

    def expected(path, p, g):
        g = np.asarray(g) * min(1.0, 1.0 / norm)
        direction = g / (np.abs(g) + 1e-8)  # the first step of Adam, bias-corrected
        decay = 0.0 if path[0].key == "embed" else 0.1
        return p - lr * (direction + decay * p)

    clipped = jax.tree.map(lambda g: np.asarray(g) * min(1.0, 1.0 / norm), grads)
    adam = state.moments[1]
    for moment, rate, power in ((adam.mu, 1 - 0.9, 1), (adam.nu, 1 - 0.95, 2)):
        for m, g in zip(jax.tree.leaves(moment), jax.tree.leaves(clipped), strict=True):
            np.testing.assert_allclose(m, rate * g**power, rtol=2e-3, atol=1e-8)
    wanted = jax.tree_util.tree_map_with_path(expected, params, grads)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


MESHES = [
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"data": 2, "fsdp": 2, "micro_seqs": 1},
    *(
        pytest.param(axes, marks=pytest.mark.slow)
        for axes in ({"data": 8}, {"fsdp": 2, "tensor": 4}, {"data": 1, "micro_seqs": 2})
    ),
]


@functools.cache
def fresh():
    """The initial state of a run."""
    return jax.device_get(initialize.init_state(RunConfig(model=MODEL), mesh_of(data=1)))


def steps_on(n, model=MODEL, **axes):
    """Losses of n steps, gradient norms, and the state after them."""
    config, constants = MeshConfig(**axes), OptimConfig()
    mesh = mesh_of(**{k: v for k, v in axes.items() if k != "micro_seqs"})
    n_micro = parallel.micro_batches(8, config, mesh)
    state = jax.device_put(
        fresh(), initialize.state_sharding(model, constants, mesh), may_alias=False
    )
    own = parallel.own_rows(n_micro, 8, mesh)
    function, found = step.make_step(model, constants, mesh), []
    schedule = schedule_of(OptimConfig(lr_peak=0.01), 10)
    with parallel.use_mesh(mesh):
        for i in range(n):
            batch = np.roll(BATCH, i, axis=1)
            batch[3, 5:] = PADDING  # micro-batches of unequal weight
            batch = parallel.put_batch({"tokens": batch}, own, n_micro, 8, mesh)
            state, metrics = function(state, batch, schedule)
            found.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    return found, state


@pytest.fixture(scope="module")
def on_one_device():
    return steps_on(5, data=1)


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_five_steps_on_any_mesh_are_those_of_one_device(axes, on_one_device):
    alone, spread = on_one_device, steps_on(5, **axes)
    np.testing.assert_allclose(spread[0], alone[0], atol=1e-5)
    first, second = (state.moments[1].mu for _, state in (alone, spread))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"loss_chunk": 24},
        pytest.param({"loss_chunk": 0}, marks=pytest.mark.slow),
        pytest.param({"scan_layers": True}, marks=pytest.mark.slow),
        pytest.param({"linear": "custom"}, marks=pytest.mark.slow),
    ],
)
def test_five_steps_computed_otherwise_are_the_same(change, on_one_device):
    alone, other = on_one_device, steps_on(5, model=replace(MODEL, **change), data=1)
    np.testing.assert_allclose(other[0], alone[0], atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused():
    mesh = mesh_of(data=4, fsdp=2)
    with pytest.raises(InputError, match="`batch_seqs` 12 does not divide over 8 data x fsdp dev"):
        parallel.micro_batches(12, MeshConfig(), mesh)
    with pytest.raises(InputError, match=r"micro_seqs` 2 does not divide the 3 .* one of 1, 3"):
        parallel.micro_batches(24, MeshConfig(micro_seqs=2), mesh)
    assert parallel.micro_batches(24, MeshConfig(micro_seqs=1), mesh) == 3


def test_parameters_and_moments_lie_where_the_rules_say(run):
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    state = initialize.init_state(run, mesh)
    for a, b in zip(*map(jax.tree.leaves, (state, fresh())), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # drawn as on one device
    gate = state.params["layers"]["mlp"]["gate"]
    assert tuple(gate.sharding.spec) == (None, "fsdp", "tensor")
    assert gate.addressable_shards[0].data.shape == (2, 32 // 2, 64 // 2)
    assert tuple(state.params["embed"].sharding.spec) == ("tensor", "fsdp")
    adam = state.moments[1]
    for moments in (adam.mu, adam.nu):
        jax.tree.map(lambda m, p: assert_same(m.sharding, p.sharding), moments, state.params)
    after, _ = one_step(mesh, state.params, BATCH)
    jax.tree.map(
        lambda m, p: assert_same(m.sharding, p.sharding), after.moments[1].nu, after.params
    )


SPECS = {
    "embed": ("tensor", "fsdp"),
    "head": ("fsdp", "tensor"),
    "norm/scale": (None,),
    "layers/attention/query": (None, "fsdp", "tensor"),
    "layers/attention/key": (None, "fsdp", "tensor"),
    "layers/attention/value": (None, "fsdp", "tensor"),
    "layers/attention/out": (None, "tensor", "fsdp"),
    "layers/attention/query_norm/scale": (None, None),
    "layers/attention/key_norm/scale": (None, None),
    "layers/attention_norm/scale": (None, None),
    "layers/mlp/gate": (None, "fsdp", "tensor"),
    "layers/mlp/up": (None, "fsdp", "tensor"),
    "layers/mlp/down": (None, "tensor", "fsdp"),
    "layers/mlp_norm/scale": (None, None),
}


def test_the_spec_of_every_parameter(run):
    shards = initialize.state_sharding(MODEL, run.optim, mesh_of(fsdp=4, tensor=2)).params
    found = {
        "/".join(key.key for key in path): tuple(shard.spec)
        for path, shard in jax.tree_util.tree_flatten_with_path(shards)[0]
    }
    assert found == SPECS


def assert_same(a, b):
    assert a == b


def test_a_mesh_of_one_device_is_a_mesh(run):
    state = initialize.init_state(run, mesh_of(data=1))
    assert tuple(state.params["head"].sharding.spec) == ("fsdp", "tensor")
