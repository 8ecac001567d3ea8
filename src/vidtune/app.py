"""A page to try a model: drop a video, see the frames that the model reads, its labels, and what it shows when.

Nothing is fetched from elsewhere: the page works without a network.
"""

import base64
import io
import os
import tempfile
from collections.abc import Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vidtune.card import markdown
from vidtune.data.clips import evaluation_views
from vidtune.data.decoding import open_video
from vidtune.data.demo import CLASSES, draw_video, encode_video
from vidtune.data.video import Video
from vidtune.errors import InputError, VideoError
from vidtune.evaluation.classifier import Classifier, load_predictor
from vidtune.evaluation.timeline import Segment, Span, merge_windows, window_views, windows
from vidtune.printing import printable

BATCH_SIZE = 8
"""Windows that the model reads at once."""

MOST_WINDOWS = 240
"""Windows of a long video: they grow, so that an answer takes no hours."""

MOST_PIXELS = 7680 * 4320
"""Of a picture of an upload: 8K."""

COLOURS = "#4e79a7 #f28e2b #59a14f #e15759 #b07aa1 #76b7b2 #d4a72c #9c755f".split()
"""Of the labels of a timeline, to be told apart on white as on black; further labels are grey."""

STYLE = """
.card {background: var(--block-background-fill); border-radius: var(--block-radius); padding: 1em}
.card h3 {margin: 0 0 .6em}
.filmstrip {display: grid; grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)); gap: 4px}
.filmstrip img {width: 100%; border-radius: 4px}
.timeline svg {width: 100%; height: 150px; display: block}
.timeline polyline {fill: none; stroke-width: 2; vector-effect: non-scaling-stroke}
.timeline .grid {stroke: currentColor; opacity: .2; vector-effect: non-scaling-stroke}
.timeline .axis {display: flex; justify-content: space-between; font-size: .8em; opacity: .7}
.timeline ul {list-style: none; padding: 0; margin: .6em 0 0; display: flex; flex-wrap: wrap; gap: .3em 1.2em}
.timeline i {display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em}
"""


class Answer(NamedTuple):
    """What a model reads of a video and says of it."""

    frames: NDArray[np.uint8]
    """The clip that the labels are of, `(T, H, W, 3)`, RGB."""
    probabilities: dict[str, float]
    """Of each label, in the order of the model's."""
    spans: list[Span]
    """Start and end of each window, seconds."""
    table: list[list[float]]
    """Probabilities of each window, `(num_labels,)`."""
    segments: list[Segment]
    """Neighbouring windows of one label, merged."""


def check_upload(path: Path) -> None:
    """Refuse what is no video, whatever its name says, and pictures so large that the frames of a clip fill memory.

    Raises:
        VideoError: If it is one of these.
    """
    with open_video(path) as video:
        height, width = video.height, video.width
    if height * width > MOST_PIXELS:
        raise VideoError(f"{path}: its pictures have {width} x {height} pixels, more than this page takes")


def answer(classifier: Classifier, path: Path, window_seconds: float = 2.0, stride_seconds: float = 1.0) -> Answer:
    """Ask a model about a video, as a whole and by windows.

    Args:
        classifier: The model.
        path: A video file.
        window_seconds: Length of a window, > 0; a video that is no longer has one, which is itself.
        stride_seconds: From one window's start to the next one's, > 0; both grow where there were over MOST_WINDOWS.

    Raises:
        VideoError: If the file can't be decoded.
    """
    with open_video(path) as video:
        views = evaluation_views(video, classifier.clip)
        duration = video.duration_seconds
        stride_seconds = max(stride_seconds, duration / MOST_WINDOWS)
        spans = windows(duration, max(window_seconds, stride_seconds), stride_seconds)
        table = _score_windows(classifier, video, spans)
    chances = classifier.probabilities(classifier.logits(views)).tolist()
    return Answer(
        frames=views[0].permute(0, 2, 3, 1).numpy(),
        probabilities=dict(zip(classifier.labels, chances, strict=True)),
        spans=spans,
        table=table,
        segments=merge_windows(spans, table, classifier.labels, classifier.multi_label),
    )


def _score_windows(classifier: Classifier, video: Video, spans: Sequence[Span]) -> list[list[float]]:
    views, table = window_views(video, classifier.clip, spans), []
    while batch := list(islice(views, BATCH_SIZE)):
        logits = classifier.logits(torch.cat(batch))
        table += [classifier.probabilities(row[None]).tolist() for row in logits]
    return table


def filmstrip(frames: NDArray[np.uint8]) -> str:
    """Show frames `(T, H, W, 3)` beside each other, as HTML."""
    pictures = []
    for index, frame in enumerate(frames):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "WEBP", quality=80)
        source = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
        pictures.append(f'<img src="{source}" alt="frame {index + 1}" title="frame {index + 1} of {len(frames)}">')
    return f'<div class="card"><h3>What the model reads</h3><div class="filmstrip">{"".join(pictures)}</div></div>'


def timeline(
    spans: Sequence[Span], table: Sequence[Sequence[float]], labels: Sequence[str], segments: Sequence[Segment]
) -> str:
    """Draw the probabilities over time above a strip of the segments, as HTML; nothing where there is one window.

    Args:
        spans: Start and end of each window, seconds.
        table: Probabilities of each window, `(num_labels,)`.
        labels: Names, in order; those that are highest somewhere get a colour and a curve.
        segments: As `merge_windows` returned them.
    """
    if len(spans) < 2:
        return ""
    end, heights = spans[-1][1], np.asarray(table)
    order = np.argsort(-heights.max(0), kind="stable")[: len(COLOURS)]
    colours = {labels[index]: colour for index, colour in zip(order, COLOURS, strict=False)}
    centres = [500 * sum(span) / end for span in spans]
    shapes = [f'<path class="grid" d="M0,{y} H1000"/>' for y in (4, 52, 100)]  # 100, 50 and 0 %
    for index, colour in zip(order, COLOURS, strict=False):
        points = (f"{x:.1f},{100 - 96 * y:.1f}" for x, y in zip(centres, heights[:, index], strict=True))
        shapes.append(f'<polyline stroke="{colour}" points="{" ".join(points)}"/>')
    items = []
    for start, stop, label, probability in segments:
        colour, text = colours.get(label, "#999"), f"{start:.1f} to {stop:.1f} s: {escape(label)}, {probability:.0%}"
        box = f'x="{1000 * start / end:.1f}" width="{1000 * (stop - start) / end:.1f}" y="108" height="20"'
        shapes.append(f'<rect {box} fill="{colour}"><title>{text}</title></rect>')
        items.append(f'<li><i style="background: {colour}"></i>{text}</li>')
    return (
        '<div class="card timeline"><h3>What it shows when</h3>'
        '<svg viewBox="0 0 1000 128" preserveAspectRatio="none" role="img" aria-label="Probabilities over time">'
        f"{''.join(shapes)}</svg>"
        f'<div class="axis"><span>0 s</span><span>{end:.1f} s</span></div><ul>{"".join(items)}</ul></div>'
    )


def build_page(
    classifier: Classifier,
    title: str,
    examples: Sequence[Path] = (),
    window_seconds: float = 2.0,
    stride_seconds: float = 1.0,
) -> Any:
    """Build the page of a model, a `gradio.Blocks`.

    Args:
        classifier: The model.
        title: What stands above: the model's name.
        examples: Videos to choose from.
        window_seconds: Length of a window of the timeline, > 0.
        stride_seconds: From one window's start to the next one's, > 0.
    """
    import gradio

    def show(path: str | None) -> list[Any]:
        if path is None:
            return [None, "", ""]
        try:
            check_upload(Path(path))
            found = answer(classifier, Path(path), window_seconds, stride_seconds)
        except VideoError as error:
            reason = str(error).removeprefix(f"{printable(path)}: ")
            raise gradio.Error(escape(reason), print_exception=False) from None
        drawn = timeline(found.spans, found.table, classifier.labels, found.segments)
        return [found.probabilities, filmstrip(found.frames), drawn]

    clip = classifier.clip
    # Uploads are nobody else's: they are removed after an hour
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown(
            f"# {markdown(title)}\nDrop a video. The model reads {clip.num_frames} frames of {clip.image_size} x "
            f"{clip.image_size} pixels of it, and knows {len(classifier.labels)} labels."
        )
        with gradio.Row():
            with gradio.Column():
                video = gradio.Video(label="Video", sources=["upload"], height=340, elem_id="video")
                if examples:
                    gradio.Examples([str(path) for path in examples], video, label="Examples, of the demo dataset")
            with gradio.Column():
                scores = gradio.Label(label="Labels", num_top_classes=5, elem_id="labels")
                frames = gradio.HTML(elem_id="frames")
        times = gradio.HTML(elem_id="timeline")
        video.change(show, video, [scores, frames, times], api_name="predict")
    return page


def launch(
    model: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    window_seconds: float = 2.0,
    stride_seconds: float = 1.0,
    max_upload_mb: int = 100,
    server_port: int | None = None,
    block: bool = True,
) -> Any:
    """Load a model and serve its page.

    Args:
        model: As of `load_predictor`.
        revision: Branch, tag or commit of a model on the Hub.
        trust_remote_code: As of `load_predictor`.
        window_seconds: Length of a window of the timeline, > 0.
        stride_seconds: From one window's start to the next one's, > 0.
        max_upload_mb: Largest file that is taken, megabytes.
        server_port: None: the first free one from 7860 on.
        block: Serve until Ctrl-C; else return at once.

    Returns:
        The page, a `gradio.Blocks`; `close()` ends it.

    Raises:
        InputError: If there is no such model, or the port is taken.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio

    classifier = load_predictor(model, revision=revision, trust_remote_code=trust_remote_code)
    # The fonts of the machine: gradio's own choice is fetched from Google
    theme = gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    with tempfile.TemporaryDirectory(prefix="vidtune-examples-") as folder:
        examples = draw_examples(Path(folder))
        title = Path(model).name if Path(model).exists() else model
        page = build_page(classifier, title, examples, window_seconds, stride_seconds)
        try:
            page.launch(
                server_port=server_port,
                max_file_size=f"{max_upload_mb}mb",
                theme=theme,
                css=STYLE,
                footer_links=[],
                share=False,
                ssr_mode=False,
                prevent_thread_lock=not block,
            )
        except OSError:
            raise InputError(f"server_port: {server_port or '7860 to 7959'}: is taken; give another") from None
    return page


def draw_examples(folder: Path) -> list[Path]:
    """Write one test video of each class of the demo dataset into a folder."""
    paths = []
    for label in CLASSES["demo"]:
        paths.append(folder / f"{label}.mp4")
        encode_video(paths[-1], *draw_video("demo", "test", label, 0))
    return paths
