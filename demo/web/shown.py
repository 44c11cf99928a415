"""How results, faces and a running search look: HTML, with pictures inside it or from memory."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from demo.web.visitors import MAX_RESULTS, Finished, Task

SHOWN = 384  # pixels: a preview is no larger


def data_uri(picture: Image.Image) -> str:
    """A picture inside the page itself."""
    file = io.BytesIO()
    if max(picture.size) > SHOWN:
        picture = picture.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
        picture.save(file, "JPEG", quality=85)
    else:
        picture.save(file, "PNG")
    kind = "jpeg" if file.getvalue()[:2] == b"\xff\xd8" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def image(source: str, alt: str, css: str = "") -> str:
    return f'<img src="{source}" alt="{html.escape(alt)}" class="{css}">'


def sentence(text: str, kind: str = "status") -> str:
    """What a visitor is told; kind: status, or alert for what went wrong."""
    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    return f'<p class="{kind}" role="{kind}">{lines}</p>'


def faces_shown(squares: list[Image.Image]) -> str:
    """The squares of a photograph, numbered."""
    figures = "".join(
        f"<figure>{image(data_uri(square), f'Face {i} of the photograph')}"
        f"<figcaption>{i if len(squares) > 1 else ''}</figcaption></figure>"
        for i, square in enumerate((each.resize((96, 96)) for each in squares), 1)
    )
    return f'<div class="faces">{figures}</div>' if squares else ""


def pair(HR: str, small: Image.Image, caption: str) -> str:
    """An imaginary face, from the source HR, over its downscaled version."""
    side = f"{small.width}×{small.height}"
    return (
        f"<figure>{image(HR, 'An imaginary face')}"
        f"{image(data_uri(small), f'The same face downscaled to {side} pixels', 'pixels')}"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def result_shown(finished: Finished) -> str:
    record, link = finished.record, f"result/{finished.token}"
    verdict, css = ("within eps", "within") if record.within_eps else ("outside eps", "outside")
    name = f"imaginary_face_seed_{record.seed}"
    caption = (
        f"Imaginary: this person does not exist.<br>seed {record.seed}, L2 {record.l2:.5f}, "
        f'<b class="{css}">{verdict}</b> {record.eps:g}<br>'
        f'<a href="{link}.png" download="{name}.png">PNG</a> · '
        f'<a href="{link}.json" download="{name}.json">record</a>'
    )
    return pair(f"{link}.png", finished.small, caption)


def input_shown(LR: Image.Image) -> str:
    side = f"{LR.width}×{LR.height}"
    enlarged = LR.resize((256, 256), Image.Resampling.BICUBIC)
    return (
        f"<figure>{image(data_uri(enlarged), 'The input, enlarged by bicubic interpolation')}"
        f"{image(data_uri(LR), f'The input: {side} pixels', 'pixels')}"
        f"<figcaption>the input, bicubic<br>and below its {side} pixels: results must downscale to "
        f"them</figcaption></figure>"
    )


def live_shown(task: Task) -> str:
    """How the search stands: L2 against eps, and the present iterate."""
    if task.iterate is None:
        return sentence(task.stage or "Starting.")
    eps, steps = task.settings.eps, task.settings.steps
    verdict, css = ("within", "within") if task.l2 <= eps else ("outside", "outside")
    which = f"Face {len(task.finished) + 1} of {task.options.duplicates}: "
    told = (
        f'<p class="status"><progress value="{task.step + 1}" max="{steps}" '
        f'aria-label="steps of the search"></progress><br>'
        f"{which * (task.options.duplicates > 1)}step {task.step + 1} of {steps}, "
        f'L2 {task.l2:.5f}, <b class="{css}">{verdict} eps</b> {eps:g}</p>'
    )
    HR, small = task.iterate
    caption = "the search under way: an imaginary face"
    return f'{told}<div class="sheet live">{pair(data_uri(HR), small, caption)}</div>'


def results_shown(results: list[Finished], number: int) -> tuple[str, str]:
    """Two parts: the newest `number` beside their input, and the earlier ones."""
    newest = results[:number]
    sheet = "".join([input_shown(newest[0].LR), *map(result_shown, newest)]) if newest else ""
    earlier = "".join(map(result_shown, results[number:]))
    gallery = (
        f"<h2>Earlier results of this page</h2><p>The newest first; the last {MAX_RESULTS} results "
        f'are kept until the page is closed.</p><div class="sheet small">{earlier}</div>'
    )
    return f'<div class="sheet">{sheet}</div>' * bool(sheet), gallery * bool(earlier)


def outcome(task: Task) -> str:
    records = [finished.record for finished in task.finished]
    within = sum(record.within_eps for record in records)
    text = f"{len(records)} imaginary face{'s' * (len(records) != 1)}, {within} within eps."
    if within < len(records):
        more = "More" if task.settings.search == "quick" else "The quick search, more"
        text += f" {more} steps or another seed come closer."
    return f"{text} Seed {task.seed} repeats this search."
