"""Write the self-contained HTML report of a run."""

import base64
import csv
import shlex
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from src.errors import InputError
from src.extras.report import figures
from src.extras.report.evaluation import Evaluation
from src.runs.atomic import write_atomically
from src.runs.results import read_metrics, read_results
from src.training.class_counts import class_scores

MISTAKES = 40  # maximum number of mistakes to show
FOLDER = Path(__file__).parent
HEADLINE = (
    "dataset",
    "model",
    "test_accuracy",
    "test_loss",
    "val_accuracy",
    "parameters",
    "epochs",
    "train_seconds",
)


def write_report(run: Path, evaluation: Evaluation | None) -> Path:
    """Write report.html, curves.png and, given an evaluation, confusion.png into a run directory.

    Returns:
        The path of report.html.

    Raises:
        InputError: metrics.csv is damaged.
    """
    config = run / "config.yaml"
    results = _formatted(read_results(run))
    tiles = [
        f"<div>{key.replace('_', ' ')}<b>{escape(results[key])}</b></div>"
        for key in HEADLINE
        if key in results
    ]
    with figures.plain_text():
        try:
            curves = figures.png(figures.curves(read_metrics(run)))
        except (KeyError, TypeError, ValueError, csv.Error):
            raise InputError(f"{run / 'metrics.csv'}: damaged; restore or delete it") from None
        write_atomically(run / "curves.png", curves)
        page = fill(
            "report.html",
            name=escape(f"{run.parent.name} {run.name}"),
            style=(FOLDER / "report.css").read_text(),
            tiles="".join(tiles),
            curves=image(curves, "curves"),
            evaluation=_evaluation(run, evaluation) if evaluation else "",
            run=escape(shlex.quote(str(run))),
            run_config=escape(shlex.quote(str(config))),
            results=table(results.items()),
            config=escape(config.read_text()),
        )
    path = run / "report.html"
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def _evaluation(run: Path, evaluation: Evaluation) -> str:
    """Return the HTML sections about an evaluation, and write confusion.png."""
    confusion = figures.png(figures.confusion(evaluation))
    write_atomically(run / "confusion.png", confusion)
    mistakes = int((~evaluation.correct).sum())
    examples = ""
    if mistakes:
        figure = figures.confident_mistakes(evaluation, MISTAKES, columns=8)
        examples = image(figures.png(figure), "most confident mistakes")
    return fill(
        "evaluation.html",
        count=f"{len(evaluation):,}",
        kind=evaluation.kind,
        confusion=image(confusion, "confusion matrix"),
        classes=table(_class_scores(evaluation)),
        shown=min(mistakes, MISTAKES),
        mistakes=f"{mistakes:,}",
        examples=examples,
        calibration_error=f"{evaluation.calibration_error():.4f}",
        uncalibrated_error=f"{evaluation.calibration_error(False):.4f}",
        reliability=image(figures.png(figures.reliability(evaluation)), "reliability diagram"),
    )


def _class_scores(evaluation: Evaluation) -> list[list[str]]:
    """Return a header row, and a row for each class that has images, sorted by recall."""
    names, counts = evaluation.classes, evaluation.confusion()
    totals = counts.sum(dim=1)
    scores = class_scores(totals, counts.sum(dim=0), counts.diag())
    confused, others = counts.fill_diagonal_(0).max(dim=1)
    rows = [["class", "recall", "precision", "F1", "images", "most often confused with"]]
    for label in scores["recall"].argsort(stable=True).tolist():
        if totals[label]:
            values = [f"{scores[key][label]:.4f}" for key in ("recall", "precision", "f1")]
            other = f"{names[others[label]]} ({confused[label]})" if confused[label] else ""
            rows.append([names[label], *values, f"{totals[label]:,}", other])
    return rows


def _formatted(results: dict[str, Any]) -> dict[str, str]:
    """Return the values of results.json as text, without the scores of each class."""
    formats = {float: "{:,.4f}", int: "{:,}"}
    return {
        key: formats.get(type(value), "{}").format(value)
        for key, value in results.items()
        if isinstance(value, str | int | float)
    }


# HTML ---------------------------------------------------------------------------------------------


def fill(template: str, **values: object) -> str:
    """Return the HTML of a template in this folder; the values must be escaped."""
    return Template((FOLDER / template).read_text()).substitute(values)


def image(png: bytes, description: str) -> str:
    """Return an HTML image with the PNG data embedded."""
    content = base64.b64encode(png).decode()
    return f'<img alt="{description}" src="data:image/png;base64,{content}">'


def table(rows: Iterable[Iterable[str]]) -> str:
    """Return an HTML table that scrolls if it is larger than the page."""
    lines = ["".join(f"<td>{escape(value)}</td>" for value in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="tall"><table>{body}</table></div>'
