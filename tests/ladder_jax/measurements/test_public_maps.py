"""The shipped maps on the public tables, against the tables' own cells."""

import pandas as pd
import pytest

from fitting import table
from ladder_jax.measurements.wide_csv import from_csv

# Map -> its table, measurements, runs, tasks.
TABLES = {
    "chinchilla": ("chinchilla_svg_epoch", 245, 245, 1),
    "chinchilla-240": ("chinchilla_svg_epoch", 240, 240, 1),
    "datablations": ("datablations_all_runs", 296, 296, 1),
    "datablations-best-over-epochs": ("datablations_best_over_epochs", 96, 96, 1),
    "datablations-python-mix": ("datablations_python_mix", 9, 9, 1),
    "gadre": ("gadre_69", 3726, 69, 54),
    "gadre-c4": ("gadre_69", 1836, 34, 54),
    "gadre-rpj": ("gadre_69", 1890, 35, 54),
    "gemstones-lighteval": ("gemstones_lighteval", 3850, 22, 5),
    "gemstones-loss": ("gemstones_loss", 770, 22, 1),
    "gemstones-loss-sets": ("gemstones_loss", 1368, 82, 1),
    "gemstones-task-losses": ("gemstones_task_losses", 3850, 22, 5),
    "nanochat": ("nanochat_isoflop_optima", 12, 12, 1),
    "obsscaling": ("obsscaling_base_llm_benchmark_eval", 1144, 148, 8),
    "porian": ("porian_isoflop_points", 1745, 239, 4),
    "pythia": ("pythia_v1_zero_shot", 5408, 16, 8),
    "zhang": ("zhang_cbs_steps_to_loss", 45, 45, 1),
}


@pytest.fixture
def public(public_data):
    folder = public_data / "public"
    if not folder.is_dir():
        pytest.skip("no public tables: LADDER_TEST_DATA lacks public/")
    return folder


def imported(public, name):
    frame, problems, _ = from_csv([public / f"{TABLES[name][0]}.csv"], [name])
    assert problems == []
    return frame


@pytest.mark.parametrize("name", TABLES)
def test_a_public_table_is_read_without_a_problem(public, name):
    frame = imported(public, name)
    assert table.validate(frame) == []
    found = len(frame), frame["run"].nunique(), frame["task"].nunique()
    assert found == TABLES[name][1:]


def test_the_182_runs_have_the_same_columns(public):
    frame, problems, _ = from_csv([public / "datablations_fit182.csv"], ["datablations"])
    assert problems == []
    assert len(frame) == 182


def test_gadre_keeps_every_cell(public):
    frame, raw = imported(public, "gadre"), pd.read_csv(public / "gadre_69.csv")
    raw["name"] = [f"{r.dataset}-{r.model}-{r.multiplier}" for r in raw.itertuples()]
    raw = raw.set_index("name")
    for task, column in {"c4_en_val": "loss_c4_val", "boolq": "acc_boolq"}.items():
        found = frame[frame["task"] == task].set_index("run")["value"]
        assert found.to_dict() == raw[column].to_dict()
    n_params = frame.groupby("run")[["n_params", "n_params_total"]].first()
    width = raw["model"].str.extract(r"d=(\d+)_")[0].dropna().astype(int)
    input_table = n_params["n_params_total"] - n_params["n_params"]
    assert input_table[width.index].tolist() == (50432 * width).tolist()


def test_gemstones_join_at_the_same_checkpoints(public):
    names = ["gemstones-task-losses", "gemstones-lighteval", "gemstones-loss"]
    frame, problems, _ = from_csv([public / f"{TABLES[n][0]}.csv" for n in names], names)
    assert problems == []
    assert frame["run"].nunique() == 22
    both = frame[frame["task"] == "hellaswag_le"].pivot(
        index=["run", "step", "n_tokens", "n_params"], columns="metric", values="value"
    )
    assert both.notna().all(axis=None)
    assert len(both) == 770
    row = frame[frame["run"] == "Gemstone-1024x28"].iloc[0]
    layers = 28 * (15 * 1024**2 + 2 * 1024) + 1024
    assert row["n_params_total"] == layers + 2 * 50304 * 1024
    assert row["n_params"] == layers + 50304 * 1024


def test_pythia_counts_are_those_published(public):
    frame = imported(public, "pythia")
    last = frame[(frame["step"] == 143000) & (frame["task"] == "arc_easy_lmeval_0shot")]
    values = last.set_index(["run", "metric"])["value"]
    assert values["pythia-12b", "acc"] == 0.7024410774410774
    assert values["pythia-12b", "acc_per_char"] == 0.6359427609427609
    runs = last.drop_duplicates("run").set_index("run")
    assert runs.loc["pythia-70m", "n_params"] == runs.loc["pythia-70m-deduped", "n_params"]
    assert runs.loc["pythia-70m", "n_params"] == 18_915_328
    tables = (runs["n_params_total"] - runs["n_params"]) / 2  # of input and output, the same size
    assert tables["pythia-70m"] == 50304 * 512
    assert tables["pythia-12b"] == 50688 * 5120
    assert set(runs["n_tokens"]) == {143000 * 2097152}


def test_chinchilla_tokens_follow_from_compute(public):
    frame = imported(public, "chinchilla")
    error = 6.0 * frame["n_params"] * frame["n_tokens"] / frame["flops"] - 1
    assert error.abs().max() < 1e-7
    assert frame["value"].max() > 5
    assert imported(public, "chinchilla-240")["value"].max() < 3.44
