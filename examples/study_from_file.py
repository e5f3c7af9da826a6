"""Trains a ladder, forecasts its targets, scores them and reports.

Command:  python examples/study_from_file.py quickstart --out quickstart
Time:     about a quarter of an hour on two CPU cores.

The experiment is the name of a shipped one or the path of a file: `ladder init mine.py --text DIR`
writes one for your own text.  Started again, the command goes on from what is there.
"""

import argparse

from ladder_jax.study import Study


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs an experiment from text to report.")
    parser.add_argument("experiment", help="quickstart, or the path of a .py file")
    parser.add_argument("--out", required=True, help="the directory of the study")
    args = parser.parse_args()

    study = Study(args.experiment, out=args.out)
    report = study.run()
    if report is not None:  # None: the experiment has no targets
        print(report.predictions.to_string(index=False))
        print(report.page)


if __name__ == "__main__":  # workers are new processes, which import this file
    main()
