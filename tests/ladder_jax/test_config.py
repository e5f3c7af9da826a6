"""Configs round-trip, hash, take overrides, and complain in one line."""

import json

import pytest

from fitting.errors import InputError
from ladder_jax.config import ModelConfig, RunConfig
from ladder_jax.config_text import config_hash, from_dict, load_json, override, to_json

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
