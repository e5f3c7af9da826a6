"""Small result files in the format of lm-evaluation-harness, and their values."""

import json

DATE = "2025-03-01T10-40-33.549571"
RESULTS = f"a__b/results_{DATE}.json"
LABEL = "arc_challenge_lmeval_5shot"


def scores(task, alias=None, **values):
    """One task's entry, as lm_eval 0.4.13 writes it."""
    entry = {"name": task, "alias": alias or task, "sample_len": 4}
    for name, value in values.items():
        entry |= {f"{name},none": value, f"{name}_stderr,none": "N/A"}
    return entry


def config(task, output_type="multiple_choice", **more):
    return {"task": task, "output_type": output_type, "target_delimiter": " "} | more


def content(**changes):
    """A results file of two choice tasks, a text, a generation and a group."""
    whole = {
        "results": {
            "arc_challenge": scores("arc_challenge", "ARC / hard ", acc=0.25, acc_norm=0.5),
            "piqa": scores("piqa", acc=0.75, acc_bytes=0.5, acc_mutual_info=1.0, f1=7.0),
            "wikitext": scores("wikitext", bits_per_byte=0.9, word_perplexity=20.0),
            "gsm8k": {"name": "gsm8k", "alias": "gsm8k", "exact_match,strict-match": 0.1,
                      "acc,strict-match": 0.1},
            "both": scores("both", " - both", acc=0.5) | {"sample_count": {"acc,none": 7}},
            "all": {"alias": "all", "name": "all"},
        },
        "groups": {"both": scores("both", " - both", acc=0.5)},
        "group_subtasks": {"all": ["both", "wikitext"], "both": ["arc_challenge", "piqa"]},
        "configs": {
            "arc_challenge": config("arc_challenge"),
            "piqa": config("piqa"),
            "wikitext": config("wikitext", "loglikelihood_rolling", process_results="def f()"),
            "gsm8k": config("gsm8k", "generate_until"),
        },
        "n-shot": {"arc_challenge": 5, "piqa": 5, "wikitext": 0, "gsm8k": 5},
        "n-samples": {
            "arc_challenge": {"original": 1172, "effective": 4},
            "piqa": {"original": 1838, "effective": 3},
            "wikitext": {"original": 62, "effective": 62},
        },
        "config": {"model": "hf", "limit": 4.0},
        "model_name": "a/b",
        "lm_eval_version": "0.4.13",
    }  # fmt: skip
    return whole | changes


def write(directory, results=None, rows=None, header="file,run,step,n_params,n_tokens"):
    """Files by name, and runs.csv; without arguments one good file."""
    for name, text in (results or {RESULTS: content()}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text))
    rows = [f"{RESULTS},a,100,7,2000"] if rows is None else rows
    (directory / "runs.csv").write_text("\n".join([header, *rows]) + "\n")


def values(frame):
    return frame.set_index(["task", "metric"])["value"].to_dict()


GOOD = {
    (LABEL, "acc"): 0.25,
    (LABEL, "acc_per_char"): 0.5,
    ("piqa_lmeval_5shot", "acc"): 0.75,
    ("piqa_lmeval_5shot", "acc_per_byte"): 0.5,
    ("piqa_lmeval_5shot", "acc_uncond"): 1.0,
    ("wikitext_lmeval_0shot", "lm_bpb"): 0.9,
    ("both_lmeval_5shot", "acc"): 0.5,
}
