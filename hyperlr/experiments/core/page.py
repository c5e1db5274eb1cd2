"""The page beside the figures, README.md: what each shows, and what one seed is worth."""

import textwrap
from collections.abc import Sequence

from hyperlr.experiments.core.experiment import Shown

TOO_SHORT = "Preset smoke: too short to conclude anything from; it shows that all runs."


def page(title: str, shown: Sequence[Shown], notes: Sequence[str] = ()) -> str:
    """Returns the page in Markdown: the notes, then a section a figure."""
    blocks = [f"# {title}", *map(_filled, notes)]
    for each in shown:
        blocks += [f"## {each.title}", f"![{each.title}]({each.name}.png)"]
        blocks += map(_filled, each.text.split("\n\n"))
    return "\n\n".join(blocks) + "\n"


def worth_of_seeds(num_seeds: int, num_test: int) -> str:
    """Says how far accuracies can be trusted, of so many seeds and test images."""
    # The deviation of a share p of n independent draws is √(p (1 − p) / n).
    by_test_set = 100 * (0.95 * 0.05 / num_test) ** 0.5
    of_test_set = (
        f"Of {num_test:,} test images an accuracy near 95% is itself known to "
        f"±{by_test_set:.1f} points only (one standard deviation)."
    )
    if num_seeds == 1:
        return (
            "All numbers are of one seed: one split, one draw of initial weights and minibatches. "
            f"{of_test_set} Another seed moves them, too: a difference of a point between two "
            "methods is no evidence. Pass --seeds for more."
        )
    return (
        f"Means are over {num_seeds} seeds, and ± is the standard deviation from seed to seed; the "
        f"mean itself is known to that over √{num_seeds}. {of_test_set} It is the same test set "
        "for all seeds."
    )


def _filled(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 100)
