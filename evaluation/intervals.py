"""How sure a figure is: intervals, standard errors, and tests of difference between groups, all of
scipy.stats.

    wilson(7, 8)    # between which shares 7 of 8 leaves the true one
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

PERMUTATIONS = 100_000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share, for n independent trials, n ≥ 1."""
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def share_of(within: Sequence[bool]) -> dict | None:
    """How many are true, of how many, the share and its 95 % Wilson interval; None for none."""
    if not within:
        return None
    low, high = wilson(sum(within), len(within))
    share = sum(within) / len(within)
    return {"within": sum(within), "of": len(within), "share": share, "low": low, "high": high}


def reached_by(numbers: Sequence[int | None], share: float) -> int | None:
    """The smallest number that `share` of all have reached, 0 < share ≤ 1; those that are None
    never do. None where too many are.
    """
    reached = sorted(number for number in numbers if number is not None)
    needed = math.ceil(share * len(numbers) - 1e-9)  # 0.9 · 10 is 9, not 10
    return reached[needed - 1] if 0 < needed <= len(reached) else None


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    with np.errstate(over="ignore"):  # of squares; it is infinite then
        return float(stats.sem(np.asarray(values, dtype=float)))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % t interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    # Not stats.t.interval, which has no number for values that are all the same.
    half = float(stats.t.ppf(0.975, len(values) - 1)) * standard_error(values)
    return fmean(values) - half, fmean(values) + half


@dataclass(frozen=True)
class Difference:
    """What a test of difference between groups says."""

    test: str  # its name; empty where nothing could be tested
    p: float | None
    words: str


def difference_of_shares(counts: Sequence[tuple[int, int]]) -> Difference:
    """Do groups, (successes, n) each, differ in their shares?

    Pearson's chi-square test where all expected counts are 5 or more; else Fisher's exact test of
    two groups, or for more a permutation test of chi-square (100,000 permutations, seed 0).
    """
    table = np.array([[k, n - k] for k, n in counts], dtype=np.int64)  # (groups, 2)
    what = "shares within eps"
    if len(table) < 2:
        return _untested(what, "there is one group only")
    if not table.sum(axis=0).all():
        return _untested(what, "all inputs are on one side of eps")
    expected = stats.contingency.expected_freq(table)
    if expected.min() >= 5:
        p = stats.chi2_contingency(table, correction=False).pvalue
        return _tested(what, f"chi-square test, {len(table) - 1} degrees of freedom", p)
    if len(table) == 2:
        return _tested(what, "Fisher's exact test", stats.fisher_exact(table)[1])
    # scipy has such a test from 1.15 on only.
    draws = np.random.default_rng(0).multivariate_hypergeometric(
        table.sum(axis=1), table[:, 0].sum(), PERMUTATIONS, method="marginals"
    )

    def chi_square(successes):  # but for a factor: failures add the same in proportion
        return ((successes - expected[:, 0]) ** 2 / expected[:, 0]).sum(axis=-1)

    as_far = chi_square(draws) >= chi_square(table[:, 0]) * (1 - 1e-9)
    p = (as_far.sum() + 1) / (PERMUTATIONS + 1)
    test = f"permutation test of chi-square, {PERMUTATIONS:,} permutations, seed 0"
    return _tested(what, test, p)


def difference_of_means(groups: Sequence[Sequence[float]], what: str) -> Difference:
    """Do groups of values differ? The Kruskal-Wallis test, which asks no distribution of them."""
    if len(groups) < 2:
        return _untested(what, "there is one group only")
    if len({value for group in groups for value in group}) < 2:
        return _untested(what, "all inputs have the same")
    few = ", rough: a group has fewer than 5 inputs" if min(map(len, groups)) < 5 else ""
    return _tested(what, f"Kruskal-Wallis test{few}", stats.kruskal(*groups).pvalue)


def _untested(what: str, why: str) -> Difference:
    return Difference("", None, f"No test of difference in {what}: {why}.")


def _tested(what: str, test: str, p: float) -> Difference:
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    verdict = "The groups differ" if p < 0.05 else "No difference between the groups was shown"
    return Difference(test, float(p), f"{verdict} in {what} ({test}; {shown}).")
