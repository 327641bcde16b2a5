"""Write pages about one run or several, with all pictures inside."""

import shlex
from pathlib import Path
from typing import Any

from src.cli.options import read_yaml
from src.extras.report import figures
from src.extras.report.evaluation import Evaluation
from src.extras.report.markup import escape, image, number, row, table, write_page
from src.extras.report.run_files import read_metrics, read_results
from src.runs.atomic import write_atomically
from src.training.resume import flatten

MISTAKES = 40  # images
MAX_SIDE_BY_SIDE = 20  # classes; a larger confusion matrix takes the whole width
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
    """Write report.html and curves.png into a run, and confusion.png if it was evaluated.

    Returns:
        The path of report.html.

    Raises:
        InputError: a file of the run is damaged, or the report cannot be written.
    """
    read_yaml(str(run / "config.yaml"))  # refuses a damaged file
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
    """Return the most important results in large type."""
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
    """Return confusion matrix, classes, mistakes and calibration; write confusion.png."""
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
        "predicted ones.</p>",
        f'<div class="wide">{image(confusion, "confusion matrix")}</div>',
        "</div><div>",
        "<h2>Accuracy of each class</h2>",
        f'<div class="tall">{_class_table(evaluation)}</div>',
        "</div></div>",
        "<h2>Most confident mistakes</h2>",
        _mistakes(evaluation),
        "<h2>Calibration</h2>",
        "<p>Accuracy of the predictions, by confidence. Bars below the dashed line are "
        "overconfident, bars above it underconfident. The expected calibration error is "
        f"{evaluation.calibration_error():.4f}: the mean gap between accuracy and confidence "
        "(Guo et al. 2017).</p>",
        f'<div class="row">{image(reliability, "reliability diagram")}</div>',
    ]


def _class_table(evaluation: Evaluation) -> str:
    """Return a table with a row per class that has images, the least accurate first."""
    counts = evaluation.confusion()
    totals = counts.sum(dim=1)
    accuracies = counts.diag().double() / totals
    confused, others = counts.fill_diagonal_(0).max(dim=1)
    lines = [row(["class", "accuracy", "", "images", "most often confused with"], "th")]
    for label in accuracies.argsort(stable=True).tolist():
        if not totals[label]:
            continue
        name, accuracy = evaluation.classes[label], float(accuracies[label])
        other = ""
        if confused[label]:
            other = f"{evaluation.classes[others[label]]} ({confused[label]})"
        lines.append(
            f'<tr><td>{escape(name)}</td><td class="n">{accuracy:.4f}</td>'
            f'<td class="bar"><i style="width:{accuracy:.1%}"></i></td>'
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
        f"<p>{min(count, MISTAKES)} of {count:,} mistakes: the predicted class, its probability, "
        f'and the true class.</p><div class="wide">{picture}</div>'
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
python -m src.extras.report {path}    # write this page again
tensorboard --logdir {path}"""
    code = f"""\
from src.inference.predictor import Predictor

predictor = Predictor({str(checkpoint)!r})
images = predictor.read(["photo.png"])     # uint8 [1, C, H, W], as in validation
print(predictor.top(images, 3))            # the three likeliest classes
print(predictor.probabilities(images))     # float32 [1, classes]"""
    return (
        f"<p>In a shell, from the folder of this project:</p><pre>{escape(commands)}</pre>"
        f"<p>In Python:</p><pre>{escape(code)}</pre>"
    )


# Several runs -------------------------------------------------------------------------------------


def write_comparison(runs: list[Path], path: Path) -> Path:
    """Write a page with the results of several runs, the differences of their configs, and curves.

    Returns:
        The path of the page.

    Raises:
        InputError: a file of a run is damaged, or the page cannot be written.
    """
    names = [f"{run.parent.name} {run.name}" for run in runs]
    if len(set(names)) < len(names):  # the same name in different folders of runs
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
    """Return a row for every key: the key, and its value in every tree."""
    keys = dict.fromkeys(key for tree in trees for key in tree)
    return [[key, *(str(tree.get(key, "")) for tree in trees)] for key in keys]


def _formatted(results: dict[str, Any]) -> dict[str, str]:
    return {key: number(key, value) for key, value in results.items()}
