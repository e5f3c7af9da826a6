"""The importer of the public runs: every feature, special cases, and each kind of bad file."""

import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax.measurements import olmo_ladder
from ladder_jax.measurements.olmo_ladder import from_olmo_ladder
from tests.olmo_ladder_files import HEADER, line, write


def test_features_composites_and_metadata(tmp_path):
    write(tmp_path, "1B-5xC")
    frame, problems = from_olmo_ladder(tmp_path)
    assert problems == []
    last = frame[frame["step"] == 400].set_index(["task", "metric"])
    mmlu = last.loc["mmlu_avg_test_rc_5shot"]["value"]
    assert mmlu["bpb"] == pytest.approx(0.215 * 1.5 + 0.335 * 1.4 + 0.219 * 1.3 + 0.231 * 1.2)
    assert mmlu["task_ce"] == pytest.approx(1.38)
    assert last.at[("c4_en_val", "lm_loss"), "value"] == 3.1
    row = last.loc[("mmlu_stem_test_rc_5shot", "acc_per_char")]
    assert (row["run"], row["size"], row["multiple"]) == ("1.3B-5xC", "1.3B", 5)
    assert (row["n_params"], row["n_tokens"]) == (1_279_395_840, 400_000)
    assert (row["lr"], row["lr_peak"], row["n_examples"]) == (5e-4, 1e-3, 3018)
    assert row["flops"] == 400_000 * 10_109_071_360


def test_a_target_may_lack_steps_or_tokens_or_live_rates(tmp_path):
    def without(column):
        keep = [i for i, c in enumerate(HEADER.split(",")) if c not in column]
        return [",".join(np.array(t.split(","))[keep]) for t in (HEADER, line(400))]

    header, only = without(["_step", "optim/learning_rate_group0"])
    write(tmp_path, "peteish7_eval_anneal", [only], header)
    header, only = without(["throughput/total_tokens", "optim/learning_rate_group0"])
    write(tmp_path, "peteish13_eval_final", [only], header)
    frame, problems = from_olmo_ladder(tmp_path)
    assert problems == []
    seven, thirteen = frame[frame["run"] == "7B-4T"], frame[frame["run"] == "13B-5T"]
    assert seven["step"].isna().all()
    assert seven["lr"].isna().all()
    assert set(seven["n_tokens"]) == {400_000}
    assert set(thirteen["n_tokens"]) == {400_000}  # step x batch


@pytest.fixture(autouse=True)
def published(request, monkeypatch):
    """Replaces the published measurements with those of the small files of these tests."""
    if "public_table" not in request.fixturenames:
        groups = ("stem", "humanities", "social_sciences", "other")
        ours = {
            (f"mmlu_{g}_test_rc_5shot", m)
            for g in groups
            for m in ("bpb", "acc_per_char", "choice_prob", "task_ce")
        }
        monkeypatch.setattr(olmo_ladder, "PUBLISHED", ours | {("c4_en_val", "lm_loss")})


def replaced(column, text, row=1):
    def edit(lines):
        cells = lines[row].split(",")
        cells[HEADER.split(",").index(column)] = text
        lines[row] = ",".join(cells)

    return edit


ACC, BPB = (
    "eval/downstream/mmlu_stem_test_rc_5shot_len_norm",
    "eval/downstream_bpb/mmlu_stem_test_rc_5shot_bpb",
)
BAD = {
    "NaN": (replaced(BPB, "nan"), 3, "holds 'nan'"),
    "empty": (replaced(BPB, ""), 3, "holds ''"),
    "negative loss": (replaced(BPB, "-1"), 3, "bpb is -1"),
    "accuracy above 1": (replaced(ACC, "1.2"), 3, "acc_per_char is 1.2"),
    "duplicated step": (replaced("_step", "200"), 3, "step occurs twice"),
    "truncated": (lambda lines: lines.__setitem__(1, lines[1][:40]), 3, "fields where the header"),
    "step": (replaced("_step", "x"), 3, "_step is 'x'"),
    "half a step": (replaced("_step", "400.5"), 3, "step is 400.5"),
    "negative rate": (replaced("optim/learning_rate_group0", "-1"), 3, "lr is -1"),
    "no tokens": (replaced("throughput/total_tokens", "0"), 3, "tokens are unknown"),
    "open quote": (lambda lines: lines.__setitem__(1, '"' + lines[1]), 3, "quote is not closed"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_reported_with_file_and_row(tmp_path, kind):
    edit, row, text = BAD[kind]
    lines = [line(200), line(400)]
    edit(lines)
    path = write(tmp_path, lines=lines)
    frame, problems = from_olmo_ladder(tmp_path)
    assert len(problems) == 1
    assert str(problems[0]).startswith(f"{path}: row {row}: ")
    assert text in str(problems[0])
    assert frame["value"].between(0, 4).all()
    assert len(frame[frame["step"] == 200]) == 21


def test_a_bad_part_leaves_no_composite(tmp_path):
    lines = [line(200), line(400)]
    replaced(BPB, "nan")(lines)
    write(tmp_path, lines=lines)
    frame, _ = from_olmo_ladder(tmp_path)
    bpb = frame[(frame["task"] == "mmlu_avg_test_rc_5shot") & (frame["metric"] == "bpb")]
    assert bpb["step"].tolist() == [200]


def test_unknown_size_and_missing_columns(tmp_path):
    write(tmp_path, "2B-1xC")
    frame, (problem,) = from_olmo_ladder(tmp_path)
    assert "its name gives size '2B'" in str(problem)
    assert frame["n_params"].isna().all()
    assert set(frame["run"]) == {"2B-1xC"}
    write(tmp_path, "190M-1xC", header=HEADER.replace(BPB, "other"))
    _, problems = from_olmo_ladder(tmp_path)
    assert any("row 1: no column for bpb of mmlu_stem_test_rc_5shot" in str(p) for p in problems)


def test_no_name_is_guessed_and_no_run_is_read_twice(tmp_path):
    write(tmp_path, "7B-mymodel")
    frame, (problem,) = from_olmo_ladder(tmp_path)
    assert "its name gives size ''" in str(problem)
    assert frame["n_params"].isna().all()
    (tmp_path / "7B-mymodel.csv").unlink()
    write(tmp_path, "1B-1xC")
    write(tmp_path, "1.3B-1xC")
    write(tmp_path, "1B-1xC-rerun")
    frame, (problem,) = from_olmo_ladder(tmp_path)
    assert str(problem).endswith("is run '1.3B-1xC', as 1.3B-1xC.csv is: remove one of them")
    assert set(frame["run"]) == {"1.3B-1xC", "1.3B-1xC-rerun"}


def test_no_runs_get_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no CSV"):
        from_olmo_ladder(tmp_path)
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match=r"a.csv: row 1: column 'throughput/total_tokens' is"):
        from_olmo_ladder(tmp_path)


def test_the_published_runs(public_table):
    assert public_table["run"].nunique() == 18
    seven = public_table[public_table["run"] == "7B-4T"]
    assert seven["step"].isna().all()
    tasks = set(public_table["task"])
    assert {"boolq_val_rc_5shot", "winogrande_val_rc_5shot", "mmlu_avg_val_rc_5shot"} <= tasks
    assert (public_table.loc[public_table["metric"] == "task_ce", "value"] > 0).all()
