"""Write the self-contained HTML report of a run."""

import base64
import html
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.extras.report import figures
from src.extras.report.evaluation import Evaluation
from src.runs.atomic import write_atomically
from src.runs.results import read_metrics, read_results
from src.training.class_counts import class_scores

MISTAKES = 40  # maximum number of mistakes to show
STYLE = Path(__file__).with_name("report.css")
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
    """
    name = escape(f"{run.parent.name} {run.name}")
    results = _formatted(read_results(run))
    headline = [
        f"<div>{key.replace('_', ' ')}<b>{escape(results[key])}</b></div>"
        for key in HEADLINE
        if results.get(key)
    ]
    with figures.plain_text():
        curves = figures.png(figures.curves(read_metrics(run)))
        write_atomically(run / "curves.png", curves)
        parts = [
            f'<div class="tiles">{"".join(headline)}</div>',
            "<h2>Curves</h2>",
            image(curves, "curves"),
            *(_evaluation(run, evaluation) if evaluation else []),
            "<h2>Use and resume</h2>",
            _commands(run),
            "<h2>Results</h2>",
            table(map(row, results.items())),
            "<h2>Config</h2>",
            f'<pre class="tall">{escape((run / "config.yaml").read_text())}</pre>',
        ]
    body = "\n".join(parts)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
{STYLE.read_text()}</style>
</head>
<body>
<h1>{name}</h1>
{body}
</body>
</html>
"""
    path = run / "report.html"
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def _evaluation(run: Path, evaluation: Evaluation) -> list[str]:
    """Return the HTML sections about an evaluation, and write confusion.png."""
    confusion = figures.png(figures.confusion(evaluation))
    write_atomically(run / "confusion.png", confusion)
    reliability = figures.png(figures.reliability(evaluation))
    note = ""
    if evaluation.kind == "validation":
        note = "The test images have not been used. "
    return [
        "<h2>Confusion matrix</h2>",
        f"<p>{len(evaluation):,} {evaluation.kind} images. {note}Rows are true classes, columns "
        "are predicted classes.</p>",
        image(confusion, "confusion matrix"),
        "<h2>Scores of each class</h2>",
        _class_table(evaluation),
        "<h2>Most confident mistakes</h2>",
        _mistakes(evaluation),
        "<h2>Calibration</h2>",
        "<p>Accuracy by confidence of the prediction. Bars below the dashed line indicate "
        "overconfidence, bars above it underconfidence. The expected calibration error (the mean "
        "gap between accuracy and confidence; Guo et al. 2017) is "
        f"{evaluation.calibration_error():.4f}. Without the temperature, it is "
        f"{evaluation.calibration_error(False):.4f}.</p>",
        image(reliability, "reliability diagram"),
    ]


def _class_table(evaluation: Evaluation) -> str:
    """Return a table of the classes that have images, sorted by recall."""
    names, counts = evaluation.classes, evaluation.confusion()
    totals = counts.sum(dim=1)
    scores = class_scores(totals, counts.sum(dim=0), counts.diag())
    confused, others = counts.fill_diagonal_(0).max(dim=1)
    titles = ["class", "recall", "precision", "F1", "images", "most often confused with"]
    rows = [row(titles, "th")]
    for label in scores["recall"].argsort(stable=True).tolist():
        if totals[label]:
            values = [f"{scores[key][label]:.4f}" for key in ("recall", "precision", "f1")]
            other = f"{names[others[label]]} ({confused[label]})" if confused[label] else ""
            rows.append(row([names[label], *values, f"{totals[label]:,}", other]))
    return table(rows)


def _mistakes(evaluation: Evaluation) -> str:
    count = int((~evaluation.correct).sum())
    if not count:
        return "<p>None.</p>"
    figure = figures.confident_mistakes(evaluation, MISTAKES, columns=8)
    return (
        f"<p>{min(count, MISTAKES)} of {count:,} mistakes, with the predicted class, its "
        f"probability, and the true class.</p>{image(figures.png(figure), 'mistakes')}"
    )


def _commands(run: Path) -> str:
    path, config = shlex.quote(str(run)), shlex.quote(str(run / "config.yaml"))
    commands = f"""\
python classify.py IMAGE --ckpt {path}
python train.py --resume {path} --trainer.max_epochs N    # train until epoch N
python train.py --config {config}    # repeat the run
python -m src.extras.report {path}    # regenerate this page
tensorboard --logdir {path}"""
    return f"<p>In a shell, from the project folder:</p><pre>{escape(commands)}</pre>"


# HTML ---------------------------------------------------------------------------------------------


def _formatted(results: dict[str, Any]) -> dict[str, str]:
    """Return the values of results.json as text, without the scores of each class."""
    formats = {float: "{:,.4f}", int: "{:,}"}
    return {
        key: formats.get(type(value), "{}").format(value)
        for key, value in results.items()
        if isinstance(value, str | int | float)
    }


def escape(value: object) -> str:
    """Convert a value to text that is safe in HTML and in quoted attributes."""
    return html.escape(str(value))


def image(png: bytes, description: str) -> str:
    """Return an HTML image with the PNG data embedded."""
    content = base64.b64encode(png).decode()
    return f'<img alt="{description}" src="data:image/png;base64,{content}">'


def row(values: Iterable[object], tag: str = "td") -> str:
    """Return an HTML table row with <td> or <th> cells."""
    cells = "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values)
    return f"<tr>{cells}</tr>"


def table(rows: Iterable[str]) -> str:
    """Return an HTML table that scrolls if it is larger than the page."""
    return f'<div class="tall"><table>{"".join(rows)}</table></div>'
