"""What probes leave to look at: a map of the features, a page around it, and a table on the terminal."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from vidtune.evaluation.pictures import to_png
from vidtune.evaluation.probing import Samples
from vidtune.printing import printable

MOST_NAMED = 20
"""Labels that a legend has room for, and that can be told apart by colour."""

MOST_POINTS = 5000
"""Of a split; more would hide each other."""

STYLE = """
:root { color-scheme: light dark; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; border-bottom: 1px solid #8884; }
img { max-width: 100%; background: white; }
code { overflow-wrap: anywhere; }
"""


def draw_map(splits: Mapping[str, Samples], names: Sequence[str]) -> bytes:
    """Draw features in two dimensions, those in which the first split varies most, a panel a split.

    Args:
        splits: Samples by split; principal components, and the scale of each feature, are of the first.
        names: Names of the labels.

    Returns:
        PNG.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    first = next(iter(splits.values())).features
    scaler = StandardScaler().fit(first)
    components = PCA(min(2, *first.shape), svd_solver="full").fit(scaler.transform(first))
    shares = [*components.explained_variance_ratio_, 0.0][:2]
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"]
    figure = Figure(figsize=(4.2 * len(splits) + 1.6, 4.2), layout="constrained")
    panels = figure.subplots(1, len(splits), squeeze=False, sharex=True, sharey=True)[0]
    for panel, (split, samples) in zip(panels, splits.items(), strict=True):
        chosen = np.linspace(0, len(samples.labels) - 1, min(MOST_POINTS, len(samples.labels))).astype(int)
        points = components.transform(scaler.transform(samples.features[chosen]))
        points = np.column_stack([points, np.zeros(len(points))])[:, :2]
        for number, name in enumerate(names):
            own = points[samples.labels[chosen] == number]
            shown = name.replace("$", r"\$") if len(names) <= MOST_NAMED else None
            panel.scatter(*own.T, s=14, alpha=0.7, linewidths=0, color=colours(number % colours.N), label=shown)
        panel.set_title(f"{split}: {len(set(samples.videos))} videos", fontsize=10)
        panel.set_xlabel(f"component 1 ({shares[0]:.0%} of the variance)")
    panels[0].set_ylabel(f"component 2 ({shares[1]:.0%})")
    if len(names) <= MOST_NAMED:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return to_png(figure)


def probe_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Make the table of the probes: a heading, a row a probe, and the most frequent label as the answer for all."""
    split = report["probes"]["scored_on"]
    rows = [["probe", "chosen", f"{split} accuracy", "95% interval", "macro F1"]]
    for name, found in report["probes"]["fitted"].items():
        metrics = found["metrics"]
        interval = metrics["intervals"].get("accuracy")
        rows.append(
            [
                name,
                ", ".join(f"{option} {value:g}" for option, value in found["parameters"].items()),
                f"{metrics['accuracy']:.3f}",
                "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
                f"{metrics['macro_f1']:.3f}",
            ]
        )
    majority = metrics["majority"]
    return [*rows, [f"always {majority['label']}", "", f"{majority['accuracy']:.3f}", "", ""]]


def probe_page(report: Mapping[str, Any], picture: bytes) -> str:
    """Write the page: self-contained HTML with the table, the map and the command."""
    heading, *rows = probe_rows(report)
    cells = "".join(f"<th>{escape(cell)}" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    features, probes = report["features"], report["probes"]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Probes of {escape(report["model"]["name_or_path"])}</title><style>{STYLE}</style>
<h1>Probes of {escape(report["model"]["name_or_path"])}</h1>
<p>Frozen features: {features["width"]} numbers a {"clip" if features["keep_clips"] else "video"} (pooling
{escape(features["pooling"])}, layer {features["layer"]}). Fitted on train, chosen by {escape(probes["chosen_by"])},
scored once on {escape(probes["scored_on"])}; intervals are over groups.</p>
<table><thead><tr>{cells}</thead><tbody>{body}</tbody></table>
<img alt="The features in two dimensions, by label" src="data:image/png;base64,{base64.b64encode(picture).decode()}">
<p><code>{escape(report["command"])}</code></p>
</html>
"""


def print_probes(report: Mapping[str, Any]) -> None:
    """Print the table of the probes."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape as plain
    from rich.table import Table

    heading, *rows = probe_rows(report)
    table = Table(box=box.SIMPLE_HEAD)
    for column in heading:
        table.add_column(column, justify="left" if column in ("probe", "chosen") else "right")
    for row in rows:
        table.add_row(*(plain(printable(cell)) for cell in row))
    Console(highlight=False, soft_wrap=True).print(table)
