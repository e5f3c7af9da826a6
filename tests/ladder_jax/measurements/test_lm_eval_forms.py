"""Older forms of the harness's results and logs, and leaderboard files made by it."""

import json
import math

import pytest

from fitting import table
from ladder_jax.measurements.lm_eval_results import from_lm_eval
from tests.lm_eval_files import LABEL, RESULTS, config, content, scores, values, write

FLAT = {
    "results": {
        "arc_easy": {"acc": 0.5, "acc_stderr": 0.01, "acc_norm": 0.25},
        "lambada_openai": {"ppl": 38.0, "acc": 0.75},
    },
    "versions": {"arc_easy": 0},
    "config": {"model": "hf-causal", "num_fewshot": 5, "limit": None},
}
BOARD = {
    "all": {"acc": 0.5, "mc2": 0.5},
    "harness|arc:challenge|25": {"acc": 0.5, "acc_norm": 0.25},
    "harness|hellaswag|10": {"acc": 0.75},
    "harness|hellaswag|0": {"acc": 0.25},
    "harness|truthfulqa:mc|0": {"mc2": 0.5},
}
ON_BOARD = {
    ("arc_challenge_lmeval_25shot", "acc"): 0.5,
    ("arc_challenge_lmeval_25shot", "acc_per_char"): 0.25,
    ("hellaswag_lmeval_10shot", "acc"): 0.75,
    ("hellaswag_lmeval_0shot", "acc"): 0.25,
}


def read(directory, results, **logs):
    write(directory, {RESULTS: results, **logs})
    return from_lm_eval(directory)


def test_flat_results_of_version_03_take_shots_from_their_config(tmp_path):
    frame, problems = read(tmp_path, FLAT)
    assert problems == []
    assert values(frame) == {
        ("arc_easy_lmeval_5shot", "acc"): 0.5,
        ("arc_easy_lmeval_5shot", "acc_per_char"): 0.25,
        ("lambada_openai_lmeval_5shot", "acc"): 0.75,
    }
    assert frame["n_examples"].isna().all()
    assert table.validate(frame) == []
    frame, problems = read(tmp_path, FLAT | {"config": {"num_fewshot": None}, "n-shot": {
        "arc_easy": 0}})  # fmt: skip
    assert set(frame["task"]) == {"arc_easy_lmeval_0shot"}
    assert ["'n-shot' has no single number for 'lambada_openai'" in str(p) for p in problems] == [1]


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "under results"])
def test_leaderboard_files_have_shots_in_their_names(tmp_path, inside):
    whole = {"config_general": {"model_name": "a"}, "results": BOARD} if inside else BOARD
    frame, problems = read(tmp_path, whole)
    assert problems == []
    assert values(frame) == ON_BOARD


def test_a_leaderboard_task_of_another_suite_is_said(tmp_path):
    frame, (problem,) = read(tmp_path, BOARD | {"original|mmlu|5": {"acc": 0.5}})
    assert "'n-shot' has no single number for 'original|mmlu|5'" in str(problem)
    assert values(frame) == ON_BOARD


def document(choices, loglik, target, **more):
    """A document as versions 0.4.0 to 0.4.2 log it: pairs, numbers, the target an index."""
    pairs = [[value, False] for value in loglik]
    return {
        "doc_id": 0, "doc": {}, "target": target,
        "arguments": [["Q:", choice] for choice in choices],
        "resps": [[pair] for pair in pairs], "filtered_resps": pairs,
    } | more  # fmt: skip


DOCUMENTS = [
    document([" four", " 7"], [-2.0, -3.0], 0, acc=1.0),
    document([" ab", " abcd"], [-2.0, -1.0], 1, acc=1.0),
]
BITS = (2 / 4 + 1 / 4) / 2 / math.log(2)


def one_task(delimiter=" ", **more):
    """Results of one task of two documents."""
    return (
        content(
            results={"arc_challenge": scores("arc_challenge", acc=1.0)},
            group_subtasks={},
            configs={"arc_challenge": config("arc_challenge", target_delimiter=delimiter)},
            **{"n-samples": {}, "config": {"model_args": "pretrained=a/b,dtype=float32"}},
        )
        | more
    )


OLD_LOG = "a__b/pretrained__a__b,dtype__float32_arc_challenge.jsonl"
NEW_LOG = RESULTS.replace("results_", "samples_arc_challenge_") + "l"


@pytest.mark.parametrize("name", [OLD_LOG, NEW_LOG], ids=["old name", "new name"])
@pytest.mark.parametrize(
    "text",
    [json.dumps(DOCUMENTS, indent=2), "".join(json.dumps(d) + "\n" for d in DOCUMENTS)],
    ids=["a list", "lines"],
)
def test_logs_of_040_to_043_have_an_index_as_target(tmp_path, name, text):
    frame, problems = read(tmp_path, one_task(), **{name: text})
    assert problems == []
    assert values(frame)[LABEL, "bpb"] == pytest.approx(BITS)


def test_a_cut_list_is_left_out(tmp_path):
    frame, (problem,) = read(tmp_path, one_task(), **{OLD_LOG: json.dumps(DOCUMENTS)[:-9]})
    assert str(problem).startswith(f"{tmp_path / OLD_LOG}: row 1 holds no choices")
    assert values(frame) == {(LABEL, "acc"): 1.0}


@pytest.mark.parametrize("delimiter", [" ", "\n", "\n\n", ""])
def test_the_delimiter_is_no_part_of_a_choice(tmp_path, delimiter):
    before = delimiter or " "
    documents = [document([f"{before}ab", f"{before}abcdef"], [-2.0, -5.4], 1, acc=0.0)]
    log = json.dumps(documents)
    found = values(read(tmp_path, one_task(delimiter), **{NEW_LOG: log})[0])
    assert found[LABEL, "bpb"] == pytest.approx(5.4 / 6 / math.log(2))
    assert found[LABEL, "acc_per_char"] == 1.0
    with_space = 5.4 / (6 + len(before)) / math.log(2)
    assert found[LABEL, "bpb_with_space"] == pytest.approx(with_space)


def test_an_empty_wrong_choice_keeps_bits_per_byte(tmp_path):
    documents = [DOCUMENTS[0], document([" ab", " "], [-2.0, -3.0], 0, acc=1.0)]
    frame, (problem,) = read(tmp_path, one_task(), **{NEW_LOG: json.dumps(documents)})
    assert "row 2 has an empty choice, which has no score per character" in str(problem)
    assert set(frame["metric"]) == {"acc", "bpb", "bpb_with_space"}
    assert values(frame)[LABEL, "bpb"] == pytest.approx((2 / 4 + 2 / 2) / 2 / math.log(2))


def test_an_empty_right_choice_has_no_bits_per_byte(tmp_path):
    documents = [DOCUMENTS[0], document([" ab", " "], [-2.0, -1.0], 1, acc=1.0)]
    frame, (problem,) = read(tmp_path, one_task(), **{NEW_LOG: json.dumps(documents)})
    assert "row 2: the right choice is empty" in str(problem)
    assert values(frame) == {(LABEL, "acc"): 1.0}
