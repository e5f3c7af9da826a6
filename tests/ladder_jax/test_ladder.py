"""Counts and recipe against the published table (arXiv 2412.04403, Table 1), to the unit."""

import json
from dataclasses import replace

import pytest

from experiments.task_ladders.config import LADDER
from fitting.errors import InputError
from ladder_jax import cli
from ladder_jax.config import ModelConfig
from ladder_jax.ladder import Ladder, Target, plan
from ladder_jax.models import counts
from ladder_jax.models.sizes import OLMO2_SIZES

PUBLISHED = {  # size: N, FLOPs per token
    "190M": (190_354_176, 1_903_391_232),
    "370M": (371_262_464, 3_443_922_944),
    "600M": (597_382_464, 5_180_751_744),
    "760M": (758_220_288, 6_373_843_968),
    "1.3B": (1_279_395_840, 10_109_071_360),
    "3B": (3_169_537_280, 22_970_355_200),
    "7B": (6_887_575_552, 49_412_071_424),
    "13B": (13_202_396_160, 91_335_915_520),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_counts_are_the_published_ones(size):
    model = OLMO2_SIZES[size]
    n, flops = PUBLISHED[size]
    assert counts.n_params(model) == n
    assert counts.flops_per_token(model) == flops
    assert counts.flops_per_token(model, "6n") == 6 * n
    assert counts.n_params_total(model) - n == 100_352 * model.d_model
    assert n - counts.n_params_non_embedding(model) == 100_352 * model.d_model


def test_grouped_keys_and_values_shrink_the_attention():
    full = ModelConfig(d_model=64, n_heads=8, d_ff=256, n_layers=1)
    grouped = ModelConfig(d_model=64, n_heads=8, n_kv_heads=2, d_ff=256, n_layers=1)
    saved = 2 * 64 * (64 - 16) + (64 - 16)  # two projections, and the key norm
    assert counts.n_params(full) - counts.n_params(grouped) == saved


@pytest.mark.parametrize(
    ("size", "batch", "lr", "warmup", "steps"),
    [
        ("190M", 128, 9.7e-4, 363, 7_272),
        ("370M", 192, 7.8e-4, 472, 9_452),
        ("760M", 320, 6.1e-4, 578, 11_580),
        ("1.3B", 384, 5.2e-4, 813, 16_279),
    ],
)
def test_the_recipe_gives_the_published_settings(size, batch, lr, warmup, steps):
    run = LADDER.run(size, 1)
    assert (run.batch_seqs, run.optim.warmup_steps, run.n_steps) == (batch, warmup, steps)
    assert float(f"{run.optim.lr_peak:.1e}") == lr


def test_seeds_multiply_the_grid_and_rename_no_run():
    one = [run.name for run in LADDER.runs()]
    three = replace(LADDER, seeds=(0, 1, 2)).runs()
    assert [run.name for run in three if run.seed == 0] == one
    assert [run.name for run in three[:3]] == ["190M-1xC", "190M-1xC-s1", "190M-1xC-s2"]
    assert [run.seed for run in three[:3]] == [0, 1, 2]
    assert len({run.name for run in three}) == 3 * len(one)
    with pytest.raises(InputError, match="run 190M-1xC occurs twice"):
        replace(LADDER, targets={"x": Target(LADDER.run("190M", 1), 1)})


def test_the_recipe_does_not_give_the_targets():
    n = counts.n_params(OLMO2_SIZES["7B"])
    assert LADDER.recipe.batch_seqs(n) == 1280  # published: 1024
    assert LADDER.targets["7B-4T"].run.batch_seqs == 1024


def test_tokens_equal_those_of_the_published_runs(public_table):
    last = public_table.groupby("run")["n_tokens"].max()
    for run in LADDER.runs():
        assert run.n_tokens == last[run.name], run.name
    for name, target in LADDER.targets.items():
        assert target.n_tokens == last[name]


def test_plan_prints_the_grid_and_its_cost(capsys):
    assert cli.main(["plan", "task_ladders", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["runs"]) == 16
    assert shown["runs"][0]["n_tokens_nominal"] == 3_807_083_520
    assert {r["size"]: r["n_params"] for r in shown["runs"]}["1.3B"] == 1_279_395_840
    shares = shown["cost"]["ladder_share_of"]
    assert [round(100 * shares[k], 2) for k in ("7B-4T", "13B-5T", "all")] == [3.16, 1.30, 0.92]


def test_a_ladder_without_targets_has_no_shares():
    lone = Ladder("x", sizes={"190M": OLMO2_SIZES["190M"]}, multiples=(0.5,))
    assert plan(lone)["cost"]["ladder_share_of"] == {}


def test_unknown_names_get_one_line(capsys):
    with pytest.raises(InputError, match="no size '2B'; it has 190M"):
        LADDER.run("2B", 1)
    assert cli.main(["plan", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("ladder plan: no experiment 'nonsense': name one of")
