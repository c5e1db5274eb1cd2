"""The script that writes the tables of docs/comparison.md."""

import comparison
import numpy as np
import pages

from hyperlr.experiments.core import tables


def test_a_table_of_the_terminal_becomes_one_of_markdown():
    table = tables.new("Scores", ("", "digits"))
    table.add_row("auto", "0.941\n±0.003")
    assert comparison.markdown(table) == (
        "**Scores**\n\n|  | digits |\n| --- | --- |\n| auto | 0.941 ±0.003 |\n"
    )


def test_what_was_not_finite_is_nan_again():
    found = comparison._with_arrays({"a": {"score": [1.0, None]}, "n": 5})
    np.testing.assert_array_equal(found["a"]["score"], [1.0, np.nan])
    assert found["n"] == 5


def test_the_page_has_its_tables():
    text = comparison.PAGE.read_text()
    assert comparison._PLACE.search(text)
    assert text.count("| --- |") >= 6
    assert comparison._FIGURE.findall(text)
    assert all(
        (pages.DOCS / "gallery" / f"compare_{name}.png").is_file()
        for name in comparison._FIGURE.findall(text)
    )
