"""Forecasts runs from a table of measurements.

Command:  python examples/forecast_from_csv.py measurements.csv --train '190M-*' '370M-*' '760M-*' \
              '1.3B-*' --targets 7B-4T --out predictions.csv
Time:     about a minute on one core; `--method laplace` takes seconds once it is compiled.

`ladder measure --from olmo-ladder --out measurements.csv` makes such a table from public runs.
"""

import argparse

from fitting import table
from fitting.forecast import ForecastSpec, forecast, to_frame


def main() -> None:
    parser = argparse.ArgumentParser(description="Forecasts runs from a table of measurements.")
    parser.add_argument("measurements", help="a .csv or .parquet file")
    parser.add_argument("--train", nargs="+", required=True, help="patterns of run names")
    parser.add_argument("--targets", nargs="+", required=True, help="runs, or NAME=N,D")
    parser.add_argument("--tasks", nargs="+", default=["main"], help="labels")
    parser.add_argument("--method", default="bayes")
    parser.add_argument("--out", help="a .csv file for the predictions")
    args = parser.parse_args()

    measurements, problems = table.read(args.measurements)
    spec = ForecastSpec(
        train=args.train, targets=args.targets, tasks=args.tasks, method=args.method
    )
    predictions = to_frame(forecast(measurements, spec))

    for problem in problems:  # bad rows, which were left out
        print(problem)
    print(predictions.dropna(axis="columns", how="all").to_string(index=False))
    if args.out:
        predictions.to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
