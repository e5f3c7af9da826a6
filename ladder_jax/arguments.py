"""What the command line takes: commands, flags, help with examples."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

METHODS = ("bayes", "laplace", "bootstrap", "least-squares", "paper")
FEATURES = ("bpb", "task_ce", "choice_prob", "lm_loss")


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parser(commands: Mapping[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """The parser; a parsed command's function is `args.run`, from `commands` by its name."""
    top = _Parser(
        prog="ladder",
        description="Forecast what a language model will be able to do before it is trained.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  ladder plan task_ladders",
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=commands[name])
        return sub

    def chance(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--chance", nargs="+", default=[], metavar="TASK=P",
                         help="accuracy of guessing, where a label does not tell")  # fmt: skip

    plan = command("plan", "Print a ladder and its cost.", "ladder plan task_ladders --json")
    plan.add_argument("experiment", help="a folder of experiments/, such as task_ladders")
    plan.add_argument("--json", action="store_true", help="print JSON")

    download = command(
        "download", "Fetch public data, checked by SHA-256.",
        "ladder download olmo-ladder",
    )  # fmt: skip
    download.add_argument("name", choices=["olmo-ladder", "olmes"],
                          help="olmo-ladder: measurements of the public ladder; olmes: task "
                               "requests and the dolma2 tokenizer")  # fmt: skip
    download.add_argument("--from", dest="source", metavar="DIR", help="copy from a directory")

    run = command(
        "run", "From text to a forecast: train a ladder, forecast its targets, compare.",
        "ladder run quickstart --out quickstart",
    )  # fmt: skip
    run.add_argument("experiment", help="a folder of experiments/, such as quickstart")
    run.add_argument("--out", required=True, metavar="DIR")
    run.add_argument("--workers", type=int, metavar="N",
                     help="processes (default: one a core, or one on an accelerator)")  # fmt: skip

    status = command(
        "status", "Show how far the runs of an experiment are.",
        "ladder status quickstart --out quickstart",
    )  # fmt: skip
    status.add_argument("experiment")
    status.add_argument("--out", required=True, metavar="DIR")

    train = command(
        "train", "Train one run, from wherever it stopped; --key value overrides its "
        "config.", "ladder train quickstart/66K-0.5xC --out run --optim.lr_peak 0.02",
    )  # fmt: skip
    train.add_argument("config", metavar="RUN", help="EXPERIMENT/RUN, or a config.json")
    train.add_argument("--out", required=True, metavar="DIR")

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
    evaluate.add_argument("--limit", type=_positive, metavar="N",
                          help="the first N documents of each task")  # fmt: skip
    evaluate.add_argument("--out", required=True, metavar="FILE", help="measurements, .csv")
    evaluate.add_argument("--store", metavar="FILE",
                          help="scores of each choice, .parquet (default: OUT.scores.parquet, or "
                               "the run's evals/); what it holds is not scored again")  # fmt: skip
    evaluate.add_argument("--dtype", choices=["float32", "bfloat16"],
                          help="default: float32 on CPU, bfloat16 elsewhere")  # fmt: skip
    evaluate.add_argument("--window", type=_positive, metavar="N",
                          help="tokens of context (default: the model's)")  # fmt: skip
    evaluate.add_argument("--no-unconditional", dest="unconditional", action="store_false",
                          help="leave out acc_uncond, which takes scores of its own")  # fmt: skip
    evaluate.add_argument("--overlap", metavar="PATH",
                          help="report which documents stand in this training text")  # fmt: skip
    evaluate.add_argument("--name", help="of the run in OUT (default: the model's)")
    evaluate.add_argument("--n-tokens", type=float, metavar="D",
                          help="tokens that an --hf model was trained on, for OUT")  # fmt: skip
    evaluate.add_argument("--fsdp", type=_positive, default=1, metavar="N",
                          help="devices that split each parameter")  # fmt: skip
    evaluate.add_argument("--tensor", type=_positive, default=1, metavar="N",
                          help="devices that split each layer's heads")  # fmt: skip

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

    predict = command(
        "predict", "Fit the training runs and forecast the targets.",
        "ladder predict --measurements measurements.csv --train '190M-*' '370M-*' '760M-*' "
        "'1.3B-*' \\\n    --target 7B-4T 13B-5T --out predictions.csv",
    )  # fmt: skip
    predict.add_argument("--measurements", required=True, metavar="FILE")
    predict.add_argument("--train", required=True, nargs="+", metavar="PATTERN",
                         help="shell patterns of run names")  # fmt: skip
    predict.add_argument("--target", required=True, nargs="+", metavar="RUN",
                         help="run names, or NAME=N_PARAMS,N_TOKENS[,FLOPS] for a run to "
                              "come")  # fmt: skip
    predict.add_argument("--tasks", nargs="+", default=["main"], metavar="LABEL",
                         help="task labels; main: the paper's eight (default)")  # fmt: skip
    predict.add_argument("--method", default="bayes", choices=METHODS,
                         help="bayes (default): tasks pooled, sampled; laplace: the same, quick "
                              "and rougher; paper: as published")  # fmt: skip
    predict.add_argument("--feature", choices=FEATURES, 
                         help="of two steps (default bpb; bayes and laplace: mixed with lm_loss "
                              "where every run has it)")  # fmt: skip
    predict.add_argument("--inputs", default="nd", choices=["nd", "c"], help="N and D, or FLOPs")
    predict.add_argument("--steps", default="two", choices=["two", "one"])
    predict.add_argument("--level", nargs="+", type=float, action="extend", metavar="P",
                         help="levels of the predictive intervals (default 0.95)")  # fmt: skip
    chance(predict)
    predict.add_argument(
        "--new-items",
        action="store_true",
        help="forecast accuracy on test items drawn afresh (bayes, laplace)",
    )
    predict.add_argument(
        "--figures", metavar="DIR", help="draw both steps, all intervals and distributions here"
    )
    predict.add_argument("--draws", metavar="FILE.nc",
                         help="posterior draws as netCDF (bayes, laplace)")  # fmt: skip
    predict.add_argument("--fits", metavar="FILE",
                         help="parameters, bounds and conditioning of every fit")  # fmt: skip
    predict.add_argument("--out", required=True, metavar="FILE", help="predictions.csv")
    predict.add_argument("--lock", action="store_true",
                         help="lock the forecast: predictions.lock beside --out, for `ladder "
                              "score`")  # fmt: skip
    predict.add_argument("--strict", action="store_true", help="fail if any row is bad")

    score = command(
        "score", "Hold a locked forecast against what was measured afterwards.",
        "ladder score --predictions predictions.csv --measurements later.csv --out scored.csv",
    )  # fmt: skip
    score.add_argument("--predictions", required=True, metavar="FILE",
                       help="of `ladder predict --lock` or `ladder run`")  # fmt: skip
    score.add_argument("--measurements", required=True, metavar="FILE",
                       help="a table that has the targets")  # fmt: skip
    score.add_argument("--lock", metavar="FILE",
                       help="default: the name of the predictions, ending in .lock")  # fmt: skip
    score.add_argument("--out", required=True, metavar="FILE",
                       help="the predictions beside what was measured, .csv")  # fmt: skip
    score.add_argument("--strict", action="store_true", help="fail if any row is bad")

    backtest = command(
        "backtest", "Hold out the ladder's larger sizes, forecast them by every method, compare.",
        "ladder backtest --measurements measurements.csv --train '190M-*' '370M-*' '760M-*' "
        "'1.3B-*' \\\n    --methods laplace bootstrap --out backtest.csv",
    )  # fmt: skip
    backtest.add_argument("--measurements", required=True, metavar="FILE")
    backtest.add_argument("--train", required=True, nargs="+", metavar="PATTERN",
                          help="shell patterns of the ladder's runs, of three sizes or "
                               "more")  # fmt: skip
    backtest.add_argument("--tasks", nargs="+", default=["main"], metavar="LABEL",
                          help="task labels; main: the paper's eight (default)")  # fmt: skip
    backtest.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS,
                          help="default: all")  # fmt: skip
    backtest.add_argument("--inputs", default="nd", choices=["nd", "c"], help="N and D, or FLOPs")
    backtest.add_argument("--feature", choices=FEATURES, help="default: the method's own")
    backtest.add_argument("--target", nargs="+", default=[], metavar="RUN",
                          help="measured runs to score once, last, from all training "
                               "runs")  # fmt: skip
    chance(backtest)
    backtest.add_argument("--out", required=True, metavar="FILE", help="every forecast, .csv")
    backtest.add_argument("--figures", metavar="DIR", help="draw backtest.png here")
    backtest.add_argument("--strict", action="store_true", help="fail if any row is bad")

    following = command(
        "next", "Advise which run to train next for the narrowest forecasts of the targets.",
        "ladder next --measurements measurements.csv --train '190M-*' '370M-*' "
        "--target 7B-4T --flops 1e21",
    )  # fmt: skip
    following.add_argument("--measurements", required=True, metavar="FILE")
    following.add_argument("--train", required=True, nargs="+", metavar="PATTERN",
                           help="shell patterns of run names")  # fmt: skip
    following.add_argument("--target", required=True, nargs="+", metavar="RUN",
                           help="run names, or NAME=N_PARAMS,N_TOKENS[,FLOPS]")  # fmt: skip
    following.add_argument("--flops", required=True, type=float, metavar="BUDGET",
                           help="what new runs may cost together")  # fmt: skip
    following.add_argument("--candidate", nargs="+", metavar="RUN",
                           help="NAME=N_PARAMS,N_TOKENS[,FLOPS] (default: every trained size at "
                                "1, 2, 5, 10, 20, 40 x 20 tokens a parameter)")  # fmt: skip
    following.add_argument("--tasks", nargs="+", default=["main"], metavar="LABEL",
                           help="task labels; main: the paper's eight (default)")  # fmt: skip
    chance(following)
    following.add_argument("--out", metavar="FILE", help="the table, .csv")
    following.add_argument("--figure", metavar="FILE", help="the picture, .png")
    following.add_argument("--strict", action="store_true", help="fail if any row is bad")
    return top
