"""Figures become tables and sentences: over all results and by groups; text, Markdown, CSV, JSON.

    rows = summary(evaluation.rows, evaluation.diversity)
    print(as_text(cells(rows)))

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
from evaluation.per_image import COLUMNS
from runner.records import spreadsheet_cell

# key of a summary's row, its header, how it is shown
HEADER = (
    ("row", "", str),
    ("pictures", "pictures", str),
    ("l2", "L2", lambda value: f"{value:.4g}"),
    ("psnr", "PSNR", lambda value: f"{value:.2f}"),
    ("within_eps", "within eps", lambda share: f"{share['within']} of {share['of']}"),
    ("within_eps", "share, 95 % interval", lambda share: _share(share)),
    ("l2_error", "SE of L2", lambda value: f"{value:.6f}"),
    ("worst_l2", "worst L2", lambda value: f"{value:.4g}"),
    ("geocross", "GEOCROSS", lambda value: f"{value:.2f}"),
    ("clean_l2", "L2 clean", lambda value: f"{value:.4g}"),
    ("clean_psnr", "PSNR clean", lambda value: f"{value:.2f}"),
    ("hr_psnr", "PSNR to HR", lambda value: f"{value:.2f}"),
    ("ssim", "SSIM", lambda value: f"{value:.4f}"),
    ("lpips", "LPIPS", lambda value: f"{value:.4f}"),
    ("niqe", "NIQE", lambda value: f"{value:.2f}"),
    ("diversity_rmse", "diversity", lambda value: f"{value:.4f}"),
    ("diversity_lpips", "diversity, LPIPS", lambda value: f"{value:.4f}"),
    ("best_step", "best step", lambda value: f"{value:.1f}"),
    ("seconds", "seconds", lambda value: f"{value:.2f}"),
)
GROUP_HEADER = (
    ("group", "group", str),
    ("inputs", "inputs", str),
    ("results", "results", str),
    ("within_eps", "within eps", lambda share: f"{share['within']} of {share['of']}"),
    ("within_eps", "share, 95 % interval", lambda share: _share(share)),
    ("l2", "mean L2", lambda value: f"{value:.4g}"),
    ("l2_interval", "95 % interval", lambda ends: "{:.4g} to {:.4g}".format(*ends)),
)


def _share(share: dict) -> str:
    percent = [f"{100 * share[key]:.1f}" for key in ("share", "low", "high")]
    return "{} % ({} to {})".format(*percent)


def share_of(within: list[bool]) -> dict | None:
    """How many, of how many, the share and its 95 % Wilson interval; None for none."""
    if not within:
        return None
    low, high = intervals.wilson(sum(within), len(within))
    share = sum(within) / len(within)
    return {"within": sum(within), "of": len(within), "share": share, "low": low, "high": high}


def _values(rows: list[dict], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _mean(rows: list[dict], key: str) -> float | None:
    values = _values(rows, key)
    return fmean(values) if values else None


def _spread(rows: list[dict], key: str) -> dict:
    """How sure the mean of a key is, and its largest value."""
    values = _values(rows, key)
    return {"l2_error": intervals.standard_error(values), "worst_l2": max(values, default=None)}


def _psnr(l2: float | None) -> float | None:
    return None if l2 is None else metrics.psnr(l2)


def summary(rows: list[dict], diversity: list[dict]) -> list[dict]:
    """A row per method: means over its pictures, the share within eps with its interval.

    The first row has the records' figures of PULSE, the others those of 8-bit pictures. A PSNR is
    that of the mean squared difference over all pictures.
    """
    pulse = [row for row in rows if row["method"] == "PULSE"]
    l2 = _mean(pulse, "record_l2")
    table = [
        {
            "row": "PULSE, records",
            "pictures": len(pulse),
            "l2": l2,
            "psnr": _psnr(l2),
            "within_eps": share_of([row["record_within_eps"] for row in pulse]),
            **_spread(pulse, "record_l2"),
            "geocross": _mean(pulse, "geocross"),
            "best_step": _mean(pulse, "best_step"),
            "seconds": _mean(pulse, "seconds"),
        }
    ]
    for method in ("PULSE", "nearest", "bicubic", "true HR"):
        mine = [row for row in rows if row["method"] == method]
        if not mine:
            continue
        line = {"row": "PULSE, PNG files" if method == "PULSE" else method, "pictures": len(mine)}
        for key in ("l2", "clean_l2", "hr_l2", "ssim", "lpips", "niqe"):
            line[key] = _mean(mine, key)
        for prefix in ("", "clean_", "hr_"):
            line[f"{prefix}psnr"] = _psnr(line[f"{prefix}l2"])
        line["within_eps"] = share_of([row["within_eps"] for row in mine if "within_eps" in row])
        line |= _spread(mine, "l2")
        if method == "PULSE":
            line["diversity_rmse"] = _mean(diversity, "rmse")
            line["diversity_lpips"] = _mean(diversity, "lpips")
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
                "within_eps": share_of(within),
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
    told = [
        "L2: mean squared difference of the downscaled picture and the LR, pixels in [0, 1]. PSNR: "
        "10 log10(1/L2), in dB, of the L2 of all pictures. Intervals: Wilson's. SE: the standard "
        "error of the mean L2. PULSE, records: pictures as the search had them; the other rows: "
        "8-bit pictures."
    ]
    crossed = sum(
        row["within_eps"] != row["record_within_eps"] for row in pulse if "within_eps" in row
    )
    if crossed:
        told.append(
            f"Clamping and rounding to 8 bits took {count(crossed, 'result')} to the other side of "
            f"eps."
        )
    if any(row["method"] == "nearest" for row in rows):
        told.append(
            "Nearest and bicubic enlargements come close to their LR by construction: consistency "
            "alone makes no face."
        )
    if diversity:
        told.append(
            f"Diversity: mean RMSE over all pairs of results of one input, of "
            f"{count(len(diversity), 'input')}. Results of one input are not "
            f"independent: with them, intervals of shares are too narrow."
        )
    if any("clean_l2" in row for row in rows):
        told.append("Clean: held against the LR before it was degraded.")
    if any("hr_l2" in row for row in rows):
        told.append(
            "PSNR to HR, SSIM and LPIPS compare with the true HR. Closeness to it is no goal of "
            "PULSE, whose results are imaginary."
        )
    return told


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
        values = sorted({row[key] for row in pulse if row.get(key) is not None})
        ends = [f"{value:g}" for value in (values[:1] + values[1:][-1:])]
        if ends:
            parts.append(f"{key} {' to '.join(ends)}")
    return ", ".join(parts)


def cells(table: list[dict], header=HEADER) -> list[list[str]]:
    """A table as text, the header first, without columns that are empty throughout."""
    used = [spec for spec in header if any(row.get(spec[0]) is not None for row in table)]
    lines = [
        ["" if row.get(key) is None else show(row[key]) for key, _, show in used] for row in table
    ]
    return [[title for _, title, _ in used], *lines]


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
