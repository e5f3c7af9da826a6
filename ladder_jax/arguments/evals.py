"""Scores, models and tables: what their commands take."""

from __future__ import annotations

from ladder_jax.arguments.parsing import Command, positive, processes


def add(command: Command) -> None:
    """Adds download, evaluate, import_hf, export_hf, measure."""
    download = command(
        "download", "Fetch public data, checked by SHA-256.",
        "ladder download olmo-ladder",
    )  # fmt: skip
    download.add_argument("name", choices=["olmo-ladder", "olmes"],
                          help="olmo-ladder: measurements of the public ladder; olmes: task "
                               "requests and the dolma2 tokenizer")  # fmt: skip
    download.add_argument("--from", dest="source", metavar="DIR", help="copy from a directory")

    evaluate = command(
        "eval", "Score tasks by log-likelihood: a model of Hugging Face, or checkpoints of a run.",
        "ladder eval --hf allenai/OLMo-2-0425-1B --tasks main --tokenizer dolma2 --out evals.csv",
    )  # fmt: skip
    model = evaluate.add_mutually_exclusive_group(required=True)
    model.add_argument("--hf", metavar="DIR_OR_NAME",
                       help="an OLMo 2 model: a directory, or org/model[@revision]")  # fmt: skip
    model.add_argument("--checkpoint", metavar="RUN", help="a run's directory")
    evaluate.add_argument("--tasks", required=True, nargs="+", metavar="LABEL",
                          help="public labels, main (the paper's eight), or .jsonl files of your "
                               "own")  # fmt: skip
    evaluate.add_argument("--steps", default="last", metavar="STEPS",
                          help="of a run: last (default), all, or numbers such as "
                               "100,200")  # fmt: skip
    evaluate.add_argument("--tokenizer", metavar="NAME",
                          help="dolma2, or a tokenizer.json (default: its own)")  # fmt: skip
    evaluate.add_argument("--limit", type=positive, metavar="N",
                          help="the first N documents of each task")  # fmt: skip
    evaluate.add_argument("--out", required=True, metavar="FILE", help="measurements, .csv")
    evaluate.add_argument("--store", metavar="FILE",
                          help="scores of each choice, .parquet (default: OUT.scores.parquet, or "
                               "the run's evals/); what it holds is not scored again")  # fmt: skip
    evaluate.add_argument("--dtype", choices=["float32", "bfloat16"],
                          help="default: float32 on CPU, bfloat16 elsewhere")  # fmt: skip
    evaluate.add_argument("--window", type=positive, metavar="N",
                          help="tokens of context (default: the model's)")  # fmt: skip
    evaluate.add_argument("--no-unconditional", dest="unconditional", action="store_false",
                          help="leave out acc_uncond, which takes scores of its own")  # fmt: skip
    evaluate.add_argument("--overlap", metavar="PATH",
                          help="report which documents stand in this training text")  # fmt: skip
    evaluate.add_argument("--name", help="of the run in OUT (default: the model's)")
    evaluate.add_argument("--n-tokens", type=float, metavar="D",
                          help="tokens that an --hf model was trained on, for OUT")  # fmt: skip
    evaluate.add_argument("--fsdp", type=positive, default=1, metavar="N",
                          help="devices that split each parameter")  # fmt: skip
    evaluate.add_argument("--tensor", type=positive, default=1, metavar="N",
                          help="devices that split each layer's heads")  # fmt: skip
    processes(evaluate)

    import_hf = command(
        "import-hf", "Make a run directory of an OLMo 2 model of Hugging Face.",
        "ladder import-hf --hf allenai/OLMo-2-0425-1B --n-tokens 4e12 --out run",
    )  # fmt: skip
    import_hf.add_argument("--hf", required=True, metavar="DIR_OR_NAME")
    import_hf.add_argument("--n-tokens", required=True, type=float, metavar="D",
                           help="what it was trained on")  # fmt: skip
    import_hf.add_argument("--out", required=True, metavar="RUN")

    export_hf = command(
        "export-hf", "Write a checkpoint as a directory that transformers loads.",
        "ladder export-hf --checkpoint run --out model",
    )  # fmt: skip
    export_hf.add_argument("--checkpoint", required=True, metavar="RUN")
    export_hf.add_argument("--step", type=int, metavar="N", help="default: the newest")
    export_hf.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    export_hf.add_argument("--out", required=True, metavar="DIR")

    measure = command(
        "measure", "Turn runs into one measurement table.",
        "ladder measure --from olmo-ladder --out measurements.csv",
    )  # fmt: skip
    measure.add_argument("--from", dest="source", default="runs",
                         choices=["runs", "scores", "olmo-ladder", "lm-eval"],
                         help="runs: of `ladder train` and `run` (default); scores: stores of "
                              "`ladder eval`; lm-eval: results of "
                              "lm-evaluation-harness")  # fmt: skip
    measure.add_argument("--runs", metavar="DIR",
                         help="the runs (olmo-ladder: default what was downloaded; lm-eval: "
                              "results and their runs.csv)")  # fmt: skip
    measure.add_argument("--out", required=True, metavar="FILE", help=".csv or .parquet")
    measure.add_argument("--strict", action="store_true", help="fail if any row is bad")
