"""Forecasts and advice: what their commands take."""

from __future__ import annotations

import argparse

from ladder_jax.arguments.parsing import Command

METHODS = ("bayes", "laplace", "bootstrap", "least-squares", "paper")
FEATURES = ("bpb", "task_ce", "choice_prob", "lm_loss")


def add(command: Command) -> None:
    """Adds predict, score, backtest, following."""
    predict = command(
        "predict", "Fit the training runs and forecast the targets.",
        "ladder predict --measurements measurements.csv --train '190M-*' '370M-*' '760M-*' "
        "'1.3B-*' \\\n    --target 7B-4T 13B-5T --out predictions.csv",
    )  # fmt: skip
    predict.add_argument("--measurements", required=True, metavar="FILE")
    predict.add_argument("--train", required=True, nargs="+", metavar="PATTERN",
                         help="shell patterns of run names")  # fmt: skip
    predict.add_argument("--target", dest="targets", required=True, nargs="+", metavar="RUN",
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
    predict.add_argument("--level", dest="levels", nargs="+", type=float, action="extend",
                         metavar="P",
                         help="levels of the predictive intervals (default 0.95)")  # fmt: skip
    _chance(predict)
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
    backtest.add_argument("--target", dest="targets", nargs="+", default=[], metavar="RUN",
                          help="measured runs to score once, last, from all training "
                               "runs")  # fmt: skip
    _chance(backtest)
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
    following.add_argument("--target", dest="targets", required=True, nargs="+", metavar="RUN",
                           help="run names, or NAME=N_PARAMS,N_TOKENS[,FLOPS]")  # fmt: skip
    following.add_argument("--flops", dest="budget", required=True, type=float, metavar="BUDGET",
                           help="what new runs may cost together")  # fmt: skip
    following.add_argument("--candidate", dest="candidates", nargs="+", metavar="RUN",
                           help="NAME=N_PARAMS,N_TOKENS[,FLOPS] (default: every trained size at "
                                "1, 2, 5, 10, 20, 40 x 20 tokens a parameter)")  # fmt: skip
    following.add_argument("--tasks", nargs="+", default=["main"], metavar="LABEL",
                           help="task labels; main: the paper's eight (default)")  # fmt: skip
    _chance(following)
    following.add_argument("--out", metavar="FILE", help="the table, .csv")
    following.add_argument("--figure", metavar="FILE", help="the picture, .png")
    following.add_argument("--strict", action="store_true", help="fail if any row is bad")


def _chance(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--chance", nargs="+", default=[], metavar="TASK=P",
                     help="accuracy of guessing, where a label does not tell")  # fmt: skip
