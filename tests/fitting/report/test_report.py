"""The report: figures, and its sources."""

import pandas as pd

from fitting.report import report
from tests.planted_compute import forecasts, planted, truth


def test_the_report_names_what_it_was_made_from(tmp_path):
    frame = planted()
    loss, accuracy = truth()
    known = {"run": "large", "n_params": 8e6, "n_tokens": 1.6e8, "n_examples": 1000}
    target = pd.DataFrame(
        [known | {"task": "moves", "metric": m, "value": v} for m, v in
         (("bpb", loss), ("acc_per_char", accuracy))]
    )  # fmt: skip
    both = pd.concat([frame, target])
    *made, still = forecasts(both, tasks=["heldout", "moves", "still"])
    path = report.write(tmp_path, "A <ladder>", made, [still], both, {"hash": "abc123"})
    page = path.read_text()
    assert "A &lt;ladder&gt;" in page
    assert "abc123" in page
    assert f"<td>{100 * accuracy:.1f}</td>" in page
    assert "1 of 1 measured values lie in their 95% intervals" in page
    for name in ("step1", "step2", "chained", "forecast", "curves", "controls"):
        assert f'src="{name}.png"' in page
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
