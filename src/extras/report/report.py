"""Write self-contained HTML reports for one or more runs."""

import shlex
from pathlib import Path
from typing import Any

from src.cli.options import read_yaml
from src.extras.report import figures
from src.extras.report.evaluation import Evaluation
from src.extras.report.markup import escape, image, number, row, table, write_page
from src.extras.report.run_files import read_metrics, read_results
from src.runs.atomic import write_atomically
from src.training.class_counts import class_scores
from src.training.resume import flatten

MISTAKES = 40  # maximum number of mistakes to show
MAX_SIDE_BY_SIDE = 20  # with more classes, confusion matrices take the full width
HEADLINE = (
    "test_accuracy",
    "test_loss",
    "val_accuracy",
    "parameters",
    "epochs",
    "train_seconds",
)
ABOUT = ("dataset", "model", "device", "precision")


# One run ------------------------------------------------------------------------------------------


def write_report(run: Path, evaluation: Evaluation | None) -> Path:
    """Write report.html, curves.png and, given an evaluation, confusion.png into a run directory.

    Returns:
        The path of report.html.

    Raises:
        InputError: a file of the run is damaged, or the report cannot be written.
    """
    read_yaml(str(run / "config.yaml"))  # raises InputError if the file is damaged
    config = (run / "config.yaml").read_text()
    results = read_results(run)
    metrics = {run.name: read_metrics(run)}
    name = f"{run.parent.name} {run.name}"
    about = "; ".join(str(results[key]) for key in ABOUT if key in results)
    with figures.plain_text():
        curves = figures.png(figures.curves(metrics))
        write_atomically(run / "curves.png", curves)
        parts = [
            f"<h1>{escape(name)}</h1>",
            f"<p>{escape(about or 'not tested yet')}</p>",
            _headline(results, evaluation),
            "<h2>Curves</h2>",
            image(curves, "curves"),
            *(_evaluation(run, evaluation) if evaluation else []),
            "<h2>Use and resume</h2>",
            _commands(run, results),
            "<h2>Results</h2>",
            table(map(row, _formatted(results).items())),
            "<h2>Config</h2>",
            f'<pre class="tall">{escape(config)}</pre>',
        ]
    return write_page(run / "report.html", name, parts)


def _headline(results: dict[str, Any], evaluation: Evaluation | None) -> str:
    """Return HTML tiles with the most important results."""
    values = {key: number(key, results.get(key)) for key in HEADLINE}
    if evaluation:
        values["calibration_error"] = f"{evaluation.calibration_error():.4f}"
    tiles = [
        f"<div>{key.replace('_', ' ')}<b>{escape(value)}</b></div>"
        for key, value in values.items()
        if value
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _evaluation(run: Path, evaluation: Evaluation) -> list[str]:
    """Return the HTML sections about an evaluation, and write confusion.png."""
    confusion = figures.png(figures.confusion(evaluation))
    write_atomically(run / "confusion.png", confusion)
    reliability = figures.png(figures.reliability(evaluation))
    layout = "row" if len(evaluation.classes) <= MAX_SIDE_BY_SIDE else ""
    note = ""
    if evaluation.kind == "validation":
        note = "The test images have not been used. "
    return [
        f'<div class="{layout}"><div>',
        "<h2>Confusion matrix</h2>",
        f"<p>{len(evaluation):,} {evaluation.kind} images. {note}Rows are true classes, columns "
        "are predicted classes.</p>",
        f'<div class="wide">{image(confusion, "confusion matrix")}</div>',
        "</div><div>",
        "<h2>Scores of each class</h2>",
        f'<div class="tall">{_class_table(evaluation)}</div>',
        "</div></div>",
        "<h2>Most confident mistakes</h2>",
        _mistakes(evaluation),
        "<h2>Calibration</h2>",
        "<p>Accuracy by confidence of the prediction. Bars below the dashed line indicate "
        "overconfidence, bars above it underconfidence. The expected calibration error (the mean "
        "gap between accuracy and confidence; Guo et al. 2017) is "
        f"{evaluation.calibration_error():.4f}. Without the temperature, it is "
        f"{evaluation.calibration_error(False):.4f}.</p>",
        f'<div class="row">{image(reliability, "reliability diagram")}</div>',
    ]


def _class_table(evaluation: Evaluation) -> str:
    """Return a table of the classes that have images, sorted by recall."""
    counts = evaluation.confusion()
    totals = counts.sum(dim=1)
    scores = class_scores(totals, counts.sum(dim=0), counts.diag())
    confused, others = counts.fill_diagonal_(0).max(dim=1)
    titles = ["class", "recall", "", "precision", "F1", "images", "most often confused with"]
    lines = [row(titles, "th")]
    for label in scores["recall"].argsort(stable=True).tolist():
        if not totals[label]:
            continue
        name = evaluation.classes[label]
        recall, precision, f1 = (float(scores[key][label]) for key in ("recall", "precision", "f1"))
        other = ""
        if confused[label]:
            other = f"{evaluation.classes[others[label]]} ({confused[label]})"
        lines.append(
            f'<tr><td>{escape(name)}</td><td class="n">{recall:.4f}</td>'
            f'<td class="bar"><i style="width:{recall:.1%}"></i></td>'
            f'<td class="n">{precision:.4f}</td><td class="n">{f1:.4f}</td>'
            f'<td class="n">{totals[label]:,}</td><td>{escape(other)}</td></tr>'
        )
    return f"<table>{''.join(lines)}</table>"


def _mistakes(evaluation: Evaluation) -> str:
    count = int((~evaluation.correct).sum())
    if not count:
        return "<p>None.</p>"
    figure = figures.confident_mistakes(evaluation, MISTAKES, columns=8)
    picture = image(figures.png(figure), "most confident mistakes")
    return (
        f"<p>{min(count, MISTAKES)} of {count:,} mistakes, with the predicted class, its "
        f'probability, and the true class.</p><div class="wide">{picture}</div>'
    )


def _commands(run: Path, results: dict[str, Any]) -> str:
    path, config = shlex.quote(str(run)), shlex.quote(str(run / "config.yaml"))
    checkpoint = run / "checkpoints" / results.get("checkpoint", "last.ckpt")
    epochs = results.get("epochs")
    longer = f" --trainer.max_epochs {2 * epochs}" if epochs else ""
    commands = f"""\
python classify.py IMAGE --ckpt {path}
python train.py --resume {path}{longer}
python train.py --config {config}    # repeat the run
python -m src.extras.report {path}    # regenerate this page
tensorboard --logdir {path}"""
    code = f"""\
from src.inference.predictor import Predictor

predictor = Predictor({str(checkpoint)!r})
images = predictor.read(["photo.png"])     # uint8 [1, C, H, W], preprocessed
print(predictor.top(images, 3))            # the three most likely classes
print(predictor.probabilities(images))     # float32 [1, classes]"""
    return (
        f"<p>In a shell, from the project folder:</p><pre>{escape(commands)}</pre>"
        f"<p>In Python:</p><pre>{escape(code)}</pre>"
    )


# Several runs -------------------------------------------------------------------------------------


def write_comparison(runs: list[Path], path: Path) -> Path:
    """Write a page that compares the results, configs and curves of several runs.

    Returns:
        The path of the page.

    Raises:
        InputError: a file of a run is damaged, or the page cannot be written.
    """
    names = [f"{run.parent.name} {run.name}" for run in runs]
    if len(set(names)) < len(names):  # the same name in different parent folders
        names = [str(run) for run in runs]
    results = _rows([_formatted(read_results(run)) for run in runs])
    configs = _rows([_settings(run) for run in runs])
    different = [values for values in configs if len(set(values[1:])) > 1]
    metrics = [read_metrics(run) for run in runs]
    with figures.plain_text():
        curves = figures.png(figures.curves(dict(zip(names, metrics, strict=True))))
    title = f"{len(runs)} runs"
    head = row(["", *names], "th")
    parts = [
        f"<h1>{title}</h1>",
        "<h2>Results</h2>",
        table([head, *map(row, results)]),
        "<h2>Config differences</h2>",
        table([head, *map(row, different)]),
        "<h2>Curves</h2>",
        image(curves, "curves"),
    ]
    return write_page(path, title, parts)


def _settings(run: Path) -> dict[str, Any]:
    settings = flatten(read_yaml(str(run / "config.yaml")))
    return {key.replace("init_args.", ""): value for key, value in settings.items()}


def _rows(trees: list[dict[str, Any]]) -> list[list[str]]:
    """Return one row per key: the key, followed by its value in each tree."""
    keys = dict.fromkeys(key for tree in trees for key in tree)
    return [[key, *(str(tree.get(key, "")) for tree in trees)] for key in keys]


def _formatted(results: dict[str, Any]) -> dict[str, str]:
    return {k: number(k, value) for k, value in results.items() if not isinstance(value, list)}
