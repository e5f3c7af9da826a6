"""The harness's logs of documents: bits per byte from them, and each kind of bad log."""

import json
import math

import numpy as np
import pytest

from fitting import table
from ladder_jax.measurements.lm_eval_results import from_lm_eval
from tests.lm_eval_files import DATE, GOOD, LABEL, RESULTS, config, content, values, write

CHOICES = (["four", "7", "two words"], ["Ünïcode", "b"], ["0", "1"], ["yes", "no"])
LOGLIK = ([-2.0, -1.0, -9.0], [-3.0, -1.5], [-0.5, -0.25], [-4.0, -3.0])
GOLDS = (0, 1, 1, 1)


def log(target=lambda choices, gold: str(gold), prompt="Q:", unconditional=False):
    """Four logged documents, as lm_eval 0.4.13 writes them."""
    lines = []
    for i, (choices, loglik, gold) in enumerate(zip(CHOICES, LOGLIK, GOLDS, strict=True)):
        asked = [{"arg_0": prompt, "arg_1": f" {choice}"} for choice in choices]
        if unconditional:
            asked += [{"arg_0": "", "arg_1": f" {choice}"} for choice in choices]
            loglik = [*loglik, *([-0.01] * len(choices))]
        found = [[str(value), "False"] for value in loglik]
        lines.append({
            "doc_id": i, "doc": {"q": "?"}, "target": target(choices, gold),
            "arguments": {f"gen_args_{k}": request for k, request in enumerate(asked)},
            "resps": [[pair] for pair in found], "filtered_resps": found, "filter": "none",
            "metrics": ["acc"], "acc": float(np.argmax(loglik[: len(choices)]) == gold),
        })  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


LOG = f"a__b/samples_arc_challenge_{DATE}.jsonl"


@pytest.mark.parametrize(
    "text",
    [log(), log(lambda choices, gold: choices[gold]), log(unconditional=True)],
    ids=["number", "text", "unconditional"],
)
def test_a_log_of_documents_gives_bits_per_byte(tmp_path, text):
    write(tmp_path, {RESULTS: content(), LOG: text})
    frame, problems = from_lm_eval(tmp_path)
    assert problems == []
    found = values(frame)
    bits = [2 / 4, 1.5 / 1, 0.25 / 1, 3 / 2]
    assert found[LABEL, "bpb"] == pytest.approx(np.mean(bits) / math.log(2))
    assert found[LABEL, "acc"] == 0.75
    assert found[LABEL, "acc_per_char"] == 0.5
    assert found[LABEL, "acc_per_byte"] == 0.5
    assert found[LABEL, "task_ce"] > 0
    assert (LABEL, "acc_per_token") not in found
    assert found["piqa_lmeval_5shot", "acc"] == 0.75
    assert table.validate(frame) == []


def test_tasks_whose_choices_a_log_does_not_tell_keep_their_accuracies(tmp_path):
    prompts = log().replace('"Q:"', '"Q', 1)  # damaged, but of no interest: the task is its own
    own = {"arc_challenge": config("arc_challenge", process_results="def f(doc, results): ...")}
    write(tmp_path, {RESULTS: content(configs=own), LOG: prompts})
    frame, problems = from_lm_eval(tmp_path)
    assert problems == []
    assert values(frame) == GOOD
    several = log(lambda choices, gold: f"[{gold}, 0]")
    one_choice = "".join(
        json.dumps(json.loads(line) | {"arguments": {
            f"gen_args_{k}": {"arg_0": f"prompt {k}", "arg_1": " sat."} for k in range(2)
        }}) + "\n" for line in log().splitlines()
    )  # fmt: skip
    for text in (several, one_choice):
        write(tmp_path, {RESULTS: content(), LOG: text})
        frame, problems = from_lm_eval(tmp_path)
        assert problems == []
        assert values(frame) == GOOD


BAD_LOGS = {
    "cut": (log()[:-40], "row 4 holds no choices with log-likelihoods"),
    "short": ("".join(log().splitlines(True)[:3]), "holds 3 documents where the results count 4"),
    "no number": (log().replace('"-9.0"', '"nan"'), "row 1 holds no choices"),
    "another acc": (log().replace('"acc": 1.0', '"acc": 0.0', 1), "contradict the acc beside"),
    "of old": (json.dumps([{"arguments": []}]) + "\n", "row 1 holds no choices"),
}


@pytest.mark.parametrize("kind", BAD_LOGS)
def test_a_bad_log_is_left_out(tmp_path, kind):
    bad, text = BAD_LOGS[kind]
    write(tmp_path, {RESULTS: content(), LOG: bad})
    frame, (problem,) = from_lm_eval(tmp_path)
    assert str(problem).startswith(f"{tmp_path / LOG}: ")
    assert text in str(problem)
    assert values(frame) == GOOD
