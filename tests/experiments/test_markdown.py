"""Claims about tables, numbers and gains as pages and reports show them."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.evaluation import Gain
from experiments.reading.markdown import number, percent, table


def test_a_table_puts_numbers_to_the_right_where_asked() -> None:
    rows = [("a", "1"), ("b", "22")]
    assert table(("name", "x"), rows) == "| name | x |\n| --- | --- |\n| a | 1 |\n| b | 22 |"
    assert table(("name", "x"), rows, numbers="right").splitlines()[1] == "| --- | ---: |"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells under a header of 2"):
        table(("name", "x"), [("a",)])


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.2345, "1.23"), (4.0, "4"), (99.96, "100"), (999.9, "1,000"), (5797.1, "5,797"), (None, "-"), (np.nan, "-")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_gain_is_bold_where_its_interval_leaves_out_zero() -> None:
    assert percent(Gain(2.0, 1.0, 3.0)) == "**+2.0 % [+1.0, +3.0]**"
    assert percent(Gain(-2.0, -3.0, -1.0)) == "**-2.0 % [-3.0, -1.0]**"
    assert percent(Gain(0.5, -1.0, 2.0)) == "+0.5 % [-1.0, +2.0]"
    assert percent(Gain(0.5, np.nan, np.nan)) == "+0.5 %"
    assert percent(Gain(np.nan, np.nan, np.nan)) == "-"
