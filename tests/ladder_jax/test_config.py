"""Configs: round trips, hashes, overrides, and errors of one line."""

import json
from dataclasses import dataclass, field, fields, replace

import pytest

from fitting.errors import InputError
from ladder_jax import launch
from ladder_jax.config import ModelConfig, OptimConfig, RunConfig
from ladder_jax.config_text import (
    config_hash,
    difference,
    from_dict,
    identity,
    load_json,
    override,
    to_json,
)
from ladder_jax.training import run_directory

TINY = RunConfig(model=ModelConfig(d_model=32, n_heads=4, n_layers=2, d_ff=128, vocab_size=64))


def test_round_trip_through_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(to_json(TINY))
    assert load_json(RunConfig, path) == TINY


def test_the_hash_depends_on_values_alone():
    assert config_hash(override(TINY, ["--multiple", "1"])) == config_hash(
        override(TINY, ["--multiple", "1.0"])
    )
    assert config_hash(override(TINY, ["--seed", "1"])) != config_hash(TINY)
    assert len(config_hash(TINY)) == 12


def test_dotted_overrides_reach_nested_fields():
    changed = override(TINY, ["--optim.lr_peak", "3e-4", "--eval.tasks", '["a", "b"]'])
    assert changed.optim.lr_peak == 3e-4
    assert changed.eval.tasks == ("a", "b")
    assert changed.model == TINY.model
    assert override(TINY, ["--size", "1e3"]).size == "1e3"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--optim.lr_peek", "1"], "unknown key '--optim.lr_peek'; did you mean --optim.lr_peak?"),
        (["--model.d_model", "wide"], "config: `model.d_model`: Couldn't parse 'wide' into an int"),
        (["--model.n_heads", "5"], "config: model.n_heads must divide model.d_model"),
        (["--n_steps"], "expected one argument"),
        (["--n_steps", "true"], "n_steps cannot be True"),
        (["--seed", "null"], "seed cannot be None"),
        (["--eval.tasks", "arc_easy"], "eval.tasks cannot be 'arc_easy'"),
        (["--optim.lr_peak", "Infinity"], "optim.lr_peak must be positive and finite"),
        (["--model.n_kv_heads", "-2"], "model.n_kv_heads must not be negative"),
        (["--mesh.data", "0"], "mesh.data must be positive, or -1"),
    ],
)
def test_a_bad_override_gets_one_line(arguments, line):
    with pytest.raises(InputError) as caught:
        override(TINY, arguments)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_file_gets_one_line(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_json(RunConfig, path)
    path.write_text(json.dumps({"model": {"depth": 3}}))
    with pytest.raises(InputError, match=r"config.json: `model`: The fields `depth` are not valid"):
        load_json(RunConfig, path)
    with pytest.raises(InputError, match="cannot be read"):
        load_json(RunConfig, tmp_path / "absent.json")


def test_head_dimensions_must_be_even():
    with pytest.raises(InputError, match="even"):
        from_dict(ModelConfig, {"d_model": 30, "n_heads": 10})


@dataclass(frozen=True)
class WiderOptim(OptimConfig):
    momentum: float = 0.0


@dataclass(frozen=True)
class Wider(RunConfig):
    """A run's config to which fields were added later."""

    tag: str = "none"
    optim: WiderOptim = field(default_factory=WiderOptim)


def wider(run: RunConfig, **changes) -> Wider:
    own = {f.name: getattr(run, f.name) for f in fields(run)}
    return Wider(**own | {"optim": WiderOptim(**vars(run.optim))} | changes)


def test_a_field_added_to_a_config_changes_no_id_manifest_or_checkpoint(tmp_path):
    run = replace(TINY, optim=OptimConfig(lr_peak=0.5))
    assert identity(wider(run)) == identity(run)  # what a checkpoint keeps of its config
    assert config_hash(wider(run)) == config_hash(run)
    assert config_hash(wider(run, tag="x")) != config_hash(run)
    launch.claim_manifest("e", [run], tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    launch.claim_manifest("e", [wider(run)], tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before
    run_directory.claim_directory(run, tmp_path / "run")
    assert run_directory.check_directory(override(run, []), tmp_path / "run")


def test_an_identity_holds_what_differs_from_defaults_and_no_execution():
    run = override(TINY, ["--optim.eps", "1e-6", "--mesh.fsdp", "2", "--model.remat", "full"])
    assert identity(run) == identity(TINY) | {"optim": {"eps": 1e-6}}
    assert identity(RunConfig()) == {}
    found = difference(TINY, run)
    assert (found.key, found.there, found.here) == ("optim.eps", 1e-8, 1e-6)
    assert difference(run, override(run, ["--mesh.fsdp", "1"])) is None


def test_where_parameters_come_from_is_reserved():
    with pytest.raises(InputError, match="init 'other' is not supported: use fresh"):
        override(TINY, ["--init", "other"])
