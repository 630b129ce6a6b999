"""Values of filters, where no database matches them."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from minicloud.cloud import filters


def as_expression(value: str) -> str:
    """The regular expression that means the same."""
    parts = re.findall(r"\\.|.|\\", value, re.DOTALL)
    special = {"*": ".*", "?": "."}
    return "".join(special.get(part) or re.escape(part[-1]) for part in parts)


@given(st.text("ab", max_size=8), st.text("ab*?\\", max_size=8))
def test_a_value_fits_as_the_expression_that_means_the_same(text: str, value: str) -> None:
    wanted = re.fullmatch(as_expression(value), text, re.DOTALL)
    assert filters.fits(text, [value]) == (wanted is not None)


def test_no_value_keeps_the_process_busy() -> None:
    text = "http://127.0.0.1:8773/services/Cloud"
    for some in itertools.product("*?/", repeat=3):
        assert not filters.fits(text, ["".join(some) * 84 + "X"])
