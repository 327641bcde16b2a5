"""A page about a run, or about several side by side; one file each, with all its pictures inside.

python -m src.extras.report data/runs/mnist/version_0                     write its report.html again
python -m src.extras.report data/runs/mnist/version_0 data/runs/digits    compare runs: comparison.html
"""

import argparse
import base64
import html
import json
import os
import shlex
import sys
from pathlib import Path

import torch
import yaml

from src.errors import ArgumentParser, InputError, exit_on_input_error
from src.extras.report.evaluation import Answers, Evaluation
from src.runs.atomic import write_atomically
from src.runs.directory import find_checkpoint
from src.runs.results import read_metrics, read_results
from src.training.resume import flatten

MISTAKES = 40
BATCH = 500  # images asked about at once
HEADLINE = ("test_accuracy", "test_loss", "val_accuracy", "parameters", "epochs", "train_seconds")
STYLE = """
body { margin: 0 auto; max-width: 66rem; padding: 1rem; color: #1f2933; font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0.5rem 0; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; border-bottom: 1px solid #d5dae0; padding-bottom: 0.2rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 0.6rem }
.tiles div { background: #f1f4f7; border-radius: 0.5rem; padding: 0.5rem 0.7rem; font-size: 0.85rem }
.tiles b { display: block; font-size: 1.2rem }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0.6rem }
.row > img { width: 100%; max-width: 32.5rem }
.row > div { min-width: 0 }
.wide { overflow-x: auto }
.tall { max-height: 34rem; overflow: auto }
table { border-collapse: collapse; font-size: 0.9rem }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid #e4e8ec; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
td.bar { width: 30%; min-width: 5rem }
td.bar i { display: block; height: 0.8rem; background: #2f6db5; border-radius: 2px }
pre { background: #f1f4f7; border-radius: 0.5rem; padding: 0.7rem; overflow-x: auto; font-size: 0.85rem }
p { max-width: 48rem }
@media (max-width: 34rem) { th, td { padding: 0.2rem 0.35rem } td.bar { min-width: 2.5rem } }
"""


def write_report(run: Path, found: Evaluation | None) -> Path:
    """Write report.html, curves.png and, where there are answers, confusion.png into the run -> report.html."""
    from src.extras.report import figures  # matplotlib, which takes its time

    results, rows = read_results(run) or {}, {run.name: read_metrics(run)}
    write_atomically(
        run / "curves.png", figures.png(figures.curves(rows, list(figures.PANELS), columns=2))
    )
    name = f"{run.parent.name} {run.name}"
    about = "; ".join(
        str(results[key]) for key in ("dataset", "model", "device", "precision") if key in results
    )
    parts = [
        f"<h1>{_safe(name)}</h1><p>{_safe(about or 'not tested yet')}</p>",
        _tiles(results, found),
    ]
    parts += ["<h2>Curves</h2>", _curves(rows)]
    if found:
        confusion = figures.png(figures.confusion(found))
        write_atomically(run / "confusion.png", confusion)
        parts += _answers(found, confusion)
    parts += ["<h2>Load, resume, use</h2>", _how_to(run, results)]
    parts += [
        "<h2>Results</h2>",
        _table(["", ""], [(key, _number(key, value)) for key, value in results.items()]),
    ]
    parts += [
        "<h2>Config</h2>",
        f'<pre class="tall">{_safe((run / "config.yaml").read_text())}</pre>',
    ]
    return _write(run / "report.html", name, parts)


def evaluate(run: Path) -> Evaluation | None:
    """Ask the chosen checkpoint of a run about the test images; about those of validation if they have not been used.

    None where there are neither. Answers are computed in 32 bit, whichever precision the run had.

    Raises:
        InputError: the run, its checkpoint or its dataset cannot be read.
    """
    from src.data import modules  # Lightning, which takes its time
    from src.inference.predictor import Predictor

    predictor = Predictor(find_checkpoint(str(run)))
    config = _read_config(run)
    kind = getattr(modules, config["data"]["class_path"].rsplit(".", 1)[-1])
    arguments = {
        key: value for key, value in config["data"]["init_args"].items() if key != "augment"
    }
    data = kind(**arguments, seed=config["seed_everything"])
    tested = (read_results(run) or {}).get("test_images")
    split = "test" if tested else "val"
    data.setup("test" if tested else "fit")
    images = data.sets[split]
    if not images:
        return None
    answers = Answers()
    for batch in torch.arange(min(len(images), tested or len(images))).split(BATCH):
        answers.add(predictor.probabilities(images.__getitems__(batch)[0]))
    return Evaluation(split, images, list(data.info.classes), answers)


def write_comparison(runs: list[Path], path: Path) -> Path:
    """Write a page with the curves of several runs over each other, and a table of what differs -> its path."""
    names = [f"{run.parent.name} {run.name}" for run in runs]
    if len(set(names)) < len(names):  # in different folders of runs
        names = [str(run) for run in runs]
    rows = dict(zip(names, map(read_metrics, runs), strict=True))
    results = [read_results(run) or {} for run in runs]
    keys = dict.fromkeys(key for result in results for key in result)
    table = [(key, *(_number(key, result.get(key)) for result in results)) for key in keys]
    configs = [flatten(_read_config(run)) for run in runs]
    differing = [
        (
            key.replace("init_args.", ""),
            *(json.dumps(config.get(key)).strip('"') for config in configs),
        )
        for key in dict.fromkeys(key for config in configs for key in config)
        if any(config.get(key) != configs[0].get(key) for config in configs)
    ]
    parts = [f"<h1>{len(runs)} runs</h1>", "<h2>Results</h2>", _table(["", *names], table)]
    parts += [
        "<h2>What differs in their configs</h2>",
        _table(["key", *names], differing) if differing else "Nothing.",
    ]
    note = "<p>Dotted lines are of the training images, as they were augmented.</p>"
    parts += ["<h2>Curves</h2>", note, _curves(rows)]
    return _write(path, f"{len(runs)} runs", parts)


def _find_run(path: str) -> Path:
    checkpoint = find_checkpoint(path)
    if not checkpoint.is_file():
        raise InputError(
            f"{path}: not a run that has a checkpoint; name one, such as data/runs/mnist/version_0"
        )
    run = checkpoint.parent.parent
    return run if run.parent.name else run.absolute()  # given from within: its name is needed


def _read_config(run: Path) -> dict:
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
        config["data"]["class_path"], config["data"]["init_args"].items, config["seed_everything"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: not the config of a run ({reason}); name a run that train.py made"
        ) from None
    return config


# Parts of a page ------------------------------------------------------------------------------------------------------


def _tiles(results: dict, found: Evaluation | None) -> str:
    values = [
        (key.replace("_", " "), _number(key, results[key]))
        for key in HEADLINE
        if results.get(key) is not None
    ]
    if found:
        values.insert(3, ("calibration error", f"{found.calibration_error():.4f}"))
    tiles = "".join(f"<div>{_safe(name)}<b>{_safe(value)}</b></div>" for name, value in values)
    return f'<div class="tiles">{tiles}</div>'


def _curves(rows: dict[str, list[dict]]) -> str:
    from src.extras.report import figures

    panels = [
        _image(figures.png(figures.curves(rows, [panel], columns=1)), panel)
        for panel in figures.PANELS
    ]
    return f'<div class="row">{"".join(panels)}</div>'


def _answers(found: Evaluation, confusion: bytes) -> list[str]:
    from src.extras.report import figures

    which = {"test": "test images", "val": "validation images: the test images have not been used"}[
        found.split
    ]
    mistakes = "<p>None.</p>"
    if wrong := int((~found.right).sum()):
        picture = _image(
            figures.png(figures.surest_mistakes(found, MISTAKES, columns=8)), "mistakes"
        )
        surest = f"The surest of {wrong:,} mistakes: what was said, how sure, and what it is."
        mistakes = f'<p>{surest}</p><div class="wide">{picture}</div>'
    beside = "row" if len(found.classes) <= 20 else ""
    return [
        f'<div class="{beside}"><div><h2>Confusion matrix</h2>',
        f"<p>{len(found):,} {which}. A row is a true class, a column what its images were taken for.</p>",
        f'<div class="wide">{_image(confusion, "confusion matrix")}</div></div>',
        f'<div><h2>Accuracy of each class</h2><div class="tall">{_classes(found)}</div></div></div>',
        "<h2>Worst mistakes</h2>",
        mistakes,
        "<h2>Calibration</h2>",
        "<p>How often it is right when it says it is so sure: bars below the dashed line are overconfident, bars above "
        f"it underconfident. The expected calibration error is {found.calibration_error():.4f}: the mean distance of "
        "the two, over all images (Guo et al. 2017).</p>",
        f'<div class="row">{_image(figures.png(figures.reliability(found)), "reliability diagram")}</div>',
    ]


def _classes(found: Evaluation) -> str:
    """A row a class, the worst first."""
    counts = found.confusion()
    rows = []
    for label, name in enumerate(found.classes):
        n, right = int(counts[label].sum()), int(counts[label, label])
        others = counts[label].clone()
        others[label] = 0
        most = f"{found.classes[int(others.argmax())]} ({int(others.max())})" if n > right else ""
        if n:
            rows.append((right / n, name, n, most))
    cells = "".join(
        f'<tr><td>{_safe(name)}</td><td class="n">{share:.4f}</td><td class="bar"><i style="width:{share:.1%}"></i>'
        f'</td><td class="n">{n:,}</td><td>{_safe(most)}</td></tr>'
        for share, name, n, most in sorted(rows, key=lambda row: row[0])
    )
    return f"<table><tr><th>class<th>accuracy<th><th>images<th>most often taken for</tr>{cells}</table>"


def _how_to(run: Path, results: dict) -> str:
    path = shlex.quote(str(run))
    checkpoint = run / "checkpoints" / results.get("checkpoint", "last.ckpt")
    longer = f" --trainer.max_epochs {2 * results['epochs']}" if results.get("epochs") else ""
    commands = f"""python classify.py IMAGE --ckpt {path}
python train.py --resume {path}{longer}
python train.py --config {shlex.quote(str(run / "config.yaml"))}     # the same run once more
python -m src.extras.report {path}           # this page once more
tensorboard --logdir {path}"""
    code = f"""from src.inference.predictor import Predictor

predictor = Predictor({str(checkpoint)!r})
images = predictor.read(["photo.png"])     # uint8 [1, C, H, W], as in validation
print(predictor.top(images, 3))            # its three likeliest classes
print(predictor.probabilities(images))     # float32 [1, classes]"""
    return f"<p>From the folder of the checkout:</p><pre>{_safe(commands)}</pre><p>In Python:</p><pre>{_safe(code)}</pre>"


def _table(head: list[str], rows: list[tuple]) -> str:
    cells = "".join(
        "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{"".join(f"<th>{_safe(h)}</th>" for h in head)}</tr>{cells}</table></div>'


def _number(key: str, value) -> str:
    """A value of results.json, as a person would write it."""
    if isinstance(value, float):
        return f"{value:.4f}" if key.endswith(("accuracy", "loss")) else f"{value:,.1f}"
    return (
        f"{value:,}"
        if isinstance(value, int) and key != "seed"
        else ""
        if value is None
        else str(value)
    )


def _safe(text) -> str:
    return html.escape(str(text))


def _image(png: bytes, name: str) -> str:
    return f'<img alt="{_safe(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _write(path: Path, title: str, parts: list[str]) -> Path:
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    page = f"<!DOCTYPE html><html lang=en><head>{head}<title>{_safe(title)}</title><style>{STYLE}</style></head>"
    body = "\n".join(parts)
    write_atomically(path, f"{page}<body>{body}</body></html>\n".encode("utf-8", "replace"))
    return path


def main(args: list[str]) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directory, or the folder of all runs of a name"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="the page of several runs (default: where they all lie)"
    )
    options = parser.parse_args(args)
    runs = [_find_run(run) for run in options.runs]
    if len(runs) == 1:
        if options.output:
            raise InputError(
                "--output: the report of a single run is written into it; leave it out"
            )
        print(write_report(runs[0], evaluate(runs[0])))
    else:
        together = Path(os.path.commonpath([run.absolute() for run in runs]))
        print(write_comparison(runs, Path(options.output or together / "comparison.html")))


if __name__ == "__main__":
    with exit_on_input_error():
        main(sys.argv[1:])
