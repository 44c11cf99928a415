"""Figures of single results become those of a run, by method and by group, with sentences that say
what they mean; and tables of them as text, Markdown, CSV and JSON.

    document = summarise("runs", evaluation)
    print(as_text(cells(document["table"], HEADER)))

A figure that is missing is left blank; one that is infinite (the PSNR of equal pictures) is `inf`
everywhere, in JSON as the string "inf", since JSON has no such number.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from statistics import fmean

from cli.progress import count
from evaluation import intervals, metrics
from evaluation.per_image import COLUMNS, Evaluation
from runner.records import spreadsheet_cell


def share_text(share: dict) -> str:
    """`62.5 % (30.6 to 86.3)`: of intervals.share_of."""
    return "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * share[k] for k in ("share", "low", "high")))


# Columns: the key in a row of the table, the title, how a figure is shown.
WITHIN_EPS = (
    ("within_eps", "within eps", "{0[within]} of {0[of]}".format),
    ("within_eps", "share, 95 % interval", share_text),
)
REACHED = (
    ("half_by", "half within eps by step", str),
    ("most_by", "90 % within eps by step", str),
)
HEADER = (
    ("row", "", str),
    ("pictures", "pictures", str),
    ("l2", "L2", "{:.4g}".format),
    ("psnr", "PSNR", "{:.2f}".format),
    *WITHIN_EPS,
    ("l2_error", "SE of L2", "{:.6f}".format),
    ("worst_l2", "worst L2", "{:.4g}".format),
    ("geocross", "GEOCROSS", "{:.2f}".format),
    ("clean_l2", "L2 clean", "{:.4g}".format),
    ("clean_psnr", "PSNR clean", "{:.2f}".format),
    ("hr_psnr", "PSNR to HR", "{:.2f}".format),
    ("ssim", "SSIM", "{:.4f}".format),
    ("lpips", "LPIPS", "{:.4f}".format),
    ("niqe", "NIQE", "{:.2f}".format),
    ("diversity_rmse", "diversity", "{:.4f}".format),
    ("diversity_lpips", "diversity, LPIPS", "{:.4f}".format),
    ("best_step", "best step", "{:.1f}".format),
    *REACHED,
    ("seconds", "seconds", "{:.2f}".format),
)
GROUP_HEADER = (
    ("group", "group", str),
    ("inputs", "inputs", str),
    ("results", "results", str),
    *WITHIN_EPS,
    ("l2", "mean L2", "{:.4g}".format),
    ("l2_interval", "95 % interval", "{0[0]:.4g} to {0[1]:.4g}".format),
)


def summarise(runs: str, evaluation: Evaluation) -> dict:
    """Everything that was measured, as evaluate.py writes it to JSON.

    title, notes, problems: sentences; table, groups: of `by_method` and `by_group`; diversity and
    pictures: of `evaluation`.
    """
    rows, diversity = evaluation.rows, evaluation.diversity
    groups = by_group(rows)
    return {
        "title": f"{runs}: {what_was_evaluated(rows)}",
        "table": by_method(rows, diversity),
        "groups": groups,
        "notes": [*notes(rows, diversity), *evaluation.notes(), *group_notes(groups)],
        "problems": evaluation.problems.lines(),
        "diversity": diversity,
        "pictures": rows,
    }


def _values(rows: list[dict], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _means(rows: list[dict], *keys: str) -> dict:
    """Of each key over the rows that have it; None where none has."""
    values = {key: _values(rows, key) for key in keys}
    return {key: fmean(some) if some else None for key, some in values.items()}


def _psnr(l2: float | None) -> float | None:
    return None if l2 is None else metrics.psnr(l2)


def _spread(l2: list[float]) -> dict:
    """How sure the mean L2 is, and the largest one."""
    return {"l2_error": intervals.standard_error(l2), "worst_l2": max(l2, default=None)}


def by_method(rows: list[dict], diversity: list[dict]) -> list[dict]:
    """A row per method: means over its pictures, the share within eps with its interval.

    The first row has the records' figures of PULSE, the others those of 8-bit pictures. A PSNR is
    that of the mean squared difference over all pictures.
    """
    pulse = [row for row in rows if row["method"] == "PULSE"]
    means = _means(pulse, "record_l2", "geocross", "best_step", "seconds")
    l2 = means.pop("record_l2")
    first = [row["first_step"] for row in pulse]
    table = [
        {
            "row": "PULSE, records",
            "pictures": len(pulse),
            "l2": l2,
            "psnr": _psnr(l2),
            "within_eps": intervals.share_of([row["record_within_eps"] for row in pulse]),
            **_spread(_values(pulse, "record_l2")),
            **means,
            "half_by": intervals.reached_by(first, 0.5),
            "most_by": intervals.reached_by(first, 0.9),
        }
    ]
    for method in ("PULSE", "nearest", "bicubic", "true HR"):
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        line = {
            "row": "PULSE, PNG files" if method == "PULSE" else method,
            "pictures": len(of_method),
            **_means(of_method, "l2", "clean_l2", "hr_l2", "ssim", "lpips", "niqe"),
        }
        for prefix in ("", "clean_", "hr_"):
            line[f"{prefix}psnr"] = _psnr(line[f"{prefix}l2"])
        line["within_eps"] = intervals.share_of(_values(of_method, "within_eps"))
        line |= _spread(_values(of_method, "l2"))
        if method == "PULSE":
            of_pairs = _means(diversity, "rmse", "lpips")
            line |= {f"diversity_{key}": value for key, value in of_pairs.items()}
        table.append(line)
    return table


def by_group(rows: list[dict]) -> dict | None:
    """The records' figures of PULSE per group, and tests of difference; None without groups.

    Duplicates of one input are not independent: an input counts once, as within eps where one of
    its results is, with the mean of their L2.
    """
    inputs: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["method"] == "PULSE" and row.get("group"):
            inputs.setdefault((row["group"], row["input"]), []).append(row)
    groups: dict[str, list[list[dict]]] = {}
    for (group, _), results in sorted(inputs.items()):
        groups.setdefault(group, []).append(results)
    if not groups:
        return None
    table, shares, means = [], [], []
    for group, members in groups.items():
        within = [any(row["record_within_eps"] for row in results) for results in members]
        l2 = [fmean(row["record_l2"] for row in results) for results in members]
        interval = intervals.mean_interval(l2)
        shares.append((sum(within), len(within)))
        means.append(l2)
        table.append(
            {
                "group": group,
                "inputs": len(members),
                "results": sum(map(len, members)),
                "within_eps": intervals.share_of(within),
                "l2": fmean(l2),
                "l2_interval": interval and (max(interval[0], 0.0), interval[1]),
            }
        )
    return {
        "table": table,
        "shares": asdict(intervals.difference_of_shares(shares)),
        "l2": asdict(intervals.difference_of_means(means, "L2")),
    }


def notes(rows: list[dict], diversity: list[dict]) -> list[str]:
    """What the figures mean, in sentences."""
    pulse = [row for row in rows if row["method"] == "PULSE"]
    sentences = [
        "L2: mean squared difference of the downscaled picture and the LR, pixels in [0, 1]. PSNR: "
        "10 log10(1/L2), in dB, of the L2 of all pictures. Intervals: Wilson's. SE: the standard "
        "error of the mean L2. PULSE, records: pictures as the search had them; the other rows: "
        "8-bit pictures."
    ]
    crossed = sum(
        row["within_eps"] != row["record_within_eps"] for row in pulse if "within_eps" in row
    )
    if crossed:
        sentences.append(
            f"Clamping and rounding to 8 bits took {count(crossed, 'result')} to the other side of "
            f"eps."
        )
    if any(row["method"] == "nearest" for row in rows):
        sentences.append(
            "Nearest and bicubic enlargements come close to their LR by construction: consistency "
            "alone makes no face."
        )
    if diversity:
        sentences.append(
            f"Diversity: mean RMSE over all pairs of results of one input, of "
            f"{count(len(diversity), 'input')}. Results of one input are not "
            f"independent: with them, intervals of shares are too narrow."
        )
    if any("clean_l2" in row for row in rows):
        sentences.append("Clean: held against the LR before it was degraded.")
    if any("hr_l2" in row for row in rows):
        sentences.append(
            "PSNR to HR, SSIM and LPIPS compare with the true HR. Closeness to it is no goal of "
            "PULSE, whose results are imaginary."
        )
    return sentences


def group_notes(groups: dict | None) -> list[str]:
    """What the table of groups means, and what the tests say."""
    if groups is None:
        return []
    return [
        "Groups: from the records. An input counts once: as within eps where one of its results "
        "is, with the mean L2 of its results. Intervals: Wilson's for shares, Student's t for L2.",
        groups["shares"]["words"],
        groups["l2"]["words"],
    ]


def what_was_evaluated(rows: list[dict]) -> str:
    """How many results, made with which eps and steps."""
    pulse = [row for row in rows if row["method"] == "PULSE"]
    inputs = len({row["input"] for row in pulse})
    parts = [f"{count(len(pulse), 'result')} of {count(inputs, 'input')}"]
    for key in ("eps", "steps"):
        values = sorted(set(_values(pulse, key)))
        ends = [f"{value:g}" for value in (values[:1] + values[1:][-1:])]
        if ends:
            parts.append(f"{key} {' to '.join(ends)}")
    return ", ".join(parts)


def cells(table: list[dict], header=HEADER) -> list[list[str]]:
    """A table as text, the header first, without columns that are empty throughout."""
    used = [column for column in header if any(row.get(column[0]) is not None for row in table)]
    lines = [
        ["" if row.get(key) is None else show(row[key]) for key, _, show in used] for row in table
    ]
    return [[title for _, title, _ in used], *lines]


def of_document(document: dict) -> list[list[list[str]]]:
    """The table by method and, where there is one, that by group, of `summarise`."""
    groups = document["groups"]
    return [cells(document["table"]), *([cells(groups["table"], GROUP_HEADER)] if groups else [])]


def as_text(table: list[list[str]]) -> str:
    """In columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def as_markdown(table: list[list[str]]) -> str:
    """A table of Markdown, every line with its end."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in table]
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(rows: list[dict]) -> str:
    """A line per picture, of PULSE and of what it is held against."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([spreadsheet_cell(row.get(key)) for key in COLUMNS] for row in rows)
    return text.getvalue()


def as_json(document: dict) -> str:
    """With "inf" for an infinite number, null for what is missing."""
    return json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
