"""Intervals and tests of difference are those of scipy."""

import itertools
import math
import random
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_folders import RECORDS, flat
from scipy import stats

from evaluation import intervals


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_intervals_are_those_of_scipy_and_of_the_score_test(counts):
    k, n = counts
    reference = stats.binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    low, high = intervals.wilson(k, n)
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert (low == 0) == (k == 0) and (high == 1) == (k == n)
    z = NormalDist().inv_cdf(0.975)
    for end in (low, high):  # both solve the equation of the score test
        assert (k / n - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-12)


def test_the_interval_in_the_table_is_scipys(scene):
    for i in range(8):
        scene.add(f"{i}", flat(100), flat(100, 8), within_eps=i < 5)
    done = scene.figures()
    reference = stats.binomtest(5, 8).proportion_ci(method="wilson")
    share = done.rows[RECORDS]["within_eps"]
    assert (share["low"], share["high"]) == pytest.approx((reference.low, reference.high))
    assert f"62.5 % ({100 * reference.low:.1f} to {100 * reference.high:.1f})" in done.stdout


def test_intervals_of_means_are_students():
    values = [random.Random(0).expovariate(500) for _ in range(9)]
    reference = stats.t.interval(0.95, 8, loc=np.mean(values), scale=stats.sem(values))
    assert intervals.mean_interval(values) == pytest.approx(reference)
    assert intervals.mean_interval([1.0]) is None


def test_shares_of_many_are_compared_by_chi_square_and_of_few_by_fisher():
    many = intervals.difference_of_shares([(30, 50), (45, 60), (20, 40)])
    reference = stats.chi2_contingency([[30, 20], [45, 15], [20, 20]], correction=False)
    assert many.test.startswith("chi-square") and many.p == pytest.approx(reference.pvalue)
    two = intervals.difference_of_shares([(30, 50), (45, 60)])
    reference = stats.chi2_contingency([[30, 20], [45, 15]], correction=False)
    assert two.test.startswith("chi-square") and two.p == pytest.approx(reference.pvalue)
    few = intervals.difference_of_shares([(8, 8), (1, 6)])
    assert few.test.startswith("Fisher")
    assert few.p == pytest.approx(stats.fisher_exact([[8, 0], [1, 5]])[1])
    assert "The groups differ in shares within eps" in few.words and "p = 0.00" in few.words


def test_three_small_groups_are_compared_by_permutation_as_if_all_were_enumerated():
    counts = [(4, 4), (1, 3), (0, 3)]
    difference = intervals.difference_of_shares(counts)
    sizes, successes = [n for _, n in counts], 5

    def chi_square(table):
        expected = [n * successes / sum(sizes) for n in sizes]
        return sum(
            (k - e) ** 2 / e + (k - e) ** 2 / (n - e)
            for k, n, e in zip(table, sizes, expected, strict=True)
        )

    as_far = total = 0
    for table in itertools.product(*(range(n + 1) for n in sizes)):
        if sum(table) == successes:
            ways = math.prod(math.comb(n, k) for n, k in zip(sizes, table, strict=True))
            total += ways
            as_far += ways * (chi_square(table) >= chi_square([4, 1, 0]) - 1e-9)
    assert difference.test.startswith("permutation")
    assert difference.p == pytest.approx(as_far / total, abs=0.005)  # three standard errors
    assert intervals.difference_of_shares(counts) == difference  # seeded


def test_l2_of_groups_is_compared_by_kruskal_wallis():
    groups = [[1.0, 2, 3, 4, 5, 6], [4.5, 5.5, 6.5, 7.5, 8.5], [0.5, 0.6, 0.7, 0.8, 0.9]]
    difference = intervals.difference_of_means(groups, "L2")
    assert difference.p == pytest.approx(stats.kruskal(*groups).pvalue)
    assert difference.words.startswith("The groups differ in L2 (Kruskal-Wallis test; p")
    alike = intervals.difference_of_means([[1.0, 3, 5], [2.0, 4, 6]], "L2")
    assert alike.words.startswith("No difference between the groups was shown in L2 (Krus")
    assert "rough: a group has fewer than 5 inputs" in alike.words


def test_what_cannot_be_tested_is_said_to_be_so():
    assert intervals.difference_of_shares([(1, 2)]).p is None
    assert "one group only" in intervals.difference_of_means([[1.0, 2.0]], "L2").words
    for counts in ([(3, 3), (2, 2)], [(0, 3), (0, 2)]):
        assert "one side of eps" in intervals.difference_of_shares(counts).words
    assert "all inputs have the same" in intervals.difference_of_means([[1.0], [1.0]], "L2").words
