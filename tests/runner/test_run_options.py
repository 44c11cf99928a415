"""Any text for any number: a legal value, or one line."""

import contextlib
import io
import math
import re
import sys

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import run
from search_settings import LOSS_TERMS, SEEDS, parse_loss

ANY_TEXT = st.text(max_size=40) | st.from_regex(r"[-+]?[0-9._eE]{0,8}", fullmatch=True)
weights = st.floats(0, 1e30, allow_nan=False).map(repr) | st.integers(0, 10**20).map(str)
summands = st.tuples(weights, st.sampled_from(LOSS_TERMS))
spaces = st.sampled_from(["", " ", "\t"])


@given(st.lists(summands, min_size=1, max_size=6), spaces, st.sampled_from(["", "+", "-"]))
@examples(deadline=None, max_examples=200)
def test_a_sum_of_weighted_terms_is_read_as_it_is_written(terms, space, sign):
    text = f"{space}+{space}".join(
        f"{space}{sign}{weight}{space}*{space}{term}{space}" for weight, term in terms
    )
    number = -1 if sign == "-" else 1
    assert parse_loss(text) == [(number * float(weight), term) for weight, term in terms]


loss_like = st.text(alphabet="0123456789.eE+-* L2GEOCROSS\n", max_size=40)


@given(ANY_TEXT | loss_like)
@examples(deadline=None, max_examples=400)
def test_any_other_loss_is_one_sentence(text):
    try:
        terms = parse_loss(text)
    except ValueError as error:
        assert "loss_str" in str(error) and "\n" not in str(error)
    else:
        assert terms and all(math.isfinite(w) and term in LOSS_TERMS for w, term in terms)


def above_zero(value) -> bool:
    return math.isfinite(value) and value > 0


NUMBERS = {
    "eps": above_zero,
    "learning_rate": above_zero,
    "steps": lambda value: value >= 1,
    "batch_size": lambda value: value >= 1,
    "duplicates": lambda value: value >= 1,
    "retries": lambda value: value >= 0,
    "threads": lambda value: 1 <= value <= 1024,  # what a machine can start
    "seed": lambda value: 0 <= value < SEEDS,
    "num_trainable_noise_layers": lambda value: value >= 0,
}


def read(*args):
    """What run.py makes of arguments: (arguments, settings), or its one line of refusal."""
    told = io.StringIO()
    before, sys.argv = sys.argv, ["run.py", *args]
    try:
        with contextlib.redirect_stderr(told):
            return run.read_arguments()
    except SystemExit as left:
        assert left.code == 2
        return told.getvalue()
    finally:
        sys.argv = before


@pytest.mark.parametrize("flag", NUMBERS)
def test_any_text_for_a_number_is_a_legal_value_or_one_line(flag):
    numbers = (
        st.integers().map(str)
        | st.floats().map(repr)
        | st.sampled_from(
            [
                "9" * 30,
                "9" * 5000,
                "0",
                "1e400",
                "nan",
                "-inf",
                "0x10",
                "1_000",
                "\uff11",
                "1\n",
                "-",
            ]
        )
    )

    @given(ANY_TEXT.filter(lambda text: "\0" not in text) | numbers)
    @examples(deadline=None, max_examples=200)
    def check(text):
        for args in ((f"-{flag}", text), (f"--{flag}={text}",)):
            answer = read(*args)
            if isinstance(answer, str):
                assert answer.startswith("run.py: error: ") and answer.count("\n") == 1
            else:
                options, settings = answer
                value = getattr(options if hasattr(options, flag) else settings, flag)
                if value is not None:
                    assert NUMBERS[flag](value)

    check()


@given(ANY_TEXT)
@examples(deadline=None, max_examples=200)
def test_any_text_for_bad_noise_layers_is_a_list_or_one_line(text):
    answer = read(f"-bad_noise_layers={text}")
    if isinstance(answer, str):
        assert answer.startswith("run.py: error: ") and answer.count("\n") == 1
    else:
        assert re.fullmatch(r"|\d+(\.\d+)*", text.strip(), re.ASCII)
