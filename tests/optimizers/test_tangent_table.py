"""docs/tangents.md has every optimizer, and says what scripts/docs/tangent_table.py finds."""

import jax.numpy as jnp
import optax
import pytest
import tangent_table


def committed():
    """The tables of the page, as library → name → verdicts."""
    tables, rows = {}, None
    for line in tangent_table.PAGE.read_text().splitlines():
        if not line.startswith("| "):
            continue
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if name.startswith("`"):
            rows = tables[name.split("`")[1].removesuffix(".optimizers")] = {}
        elif name != "---":
            rows[name] = tuple(cells)
    return tables


def test_every_optimizer_is_in_the_table():
    tables = committed()
    assert tables["hyperlr"].keys() == tangent_table.hyperlr_optimizers().keys()
    # Older versions of optax have fewer.
    assert tables["optax"].keys() >= tangent_table.optax_optimizers().keys()
    assert tables["optax.contrib"].keys() >= tangent_table.contrib_optimizers().keys()
    assert tangent_table.LEFT_OUT.keys().isdisjoint(tables["optax"] | tables["optax.contrib"])


def test_ours_are_right_everywhere():
    assert set(committed()["hyperlr"].values()) == {("right",) * 7}


@pytest.mark.parametrize(
    ("library", "name"),
    [("hyperlr", "adam"), ("optax", "adamw"), ("optax", "lamb"), ("optax.contrib", "prodigy")],
)
def test_committed_rows_are_what_the_script_finds(library, name, x64):
    factory = getattr(tangent_table, f"{library.split('.')[-1]}_optimizers")()[name]
    assert tangent_table.row(factory) == committed()[library][name]


def test_slopes_are_told_apart(x64):
    verdict = tangent_table.verdict_of_slope
    assert verdict(optax.sgd) == tangent_table.RIGHT
    assert verdict(optax.sign_sgd) == tangent_table.JUMPS
    forgetful = tangent_table.VARIANTS["adagrad, initial_accumulator_value=0"]
    assert verdict(forgetful) == tangent_table.WRONG

    def undefined(rate):
        return optax.stateless(lambda updates, _: optax.tree.scale(jnp.nan * rate, updates))

    assert verdict(undefined) == tangent_table.NAN_VALUE
