"""What a search minimises, in the words that people have for it."""

from __future__ import annotations

from puzzle.errors import ConstraintError
from puzzle.limits.quantities import QUANTITIES
from puzzle.limits.requirements import SCORE


def minimised(
    *,
    minimise: str | None = None,
    minimize: str | None = None,
    maximize: str | None = None,
    objective: str | None = None,
) -> str:
    """Returns the one quantity that is to be minimised; the KL if none is named.

    More of a throughput is less of the time that it is made of.

    Args:
        minimise: What is better when smaller.
        minimize: The same, spelled otherwise.
        maximize: A throughput.
        objective: Either.

    Raises:
        ConstraintError: Several are named, or what is to be maximised is better when smaller.

    Example:
        >>> minimised(maximize="decode_throughput"), minimised()
        ('decode_seconds', 'kl')
    """
    given = {
        "minimise": minimise,
        "minimize": minimize,
        "maximize": maximize,
        "objective": objective,
    }
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        shown = " and ".join(f"{name}={value!r}" for name, value in named.items())
        raise ConstraintError(f"{shown} are given; a search has one objective: give one of them.")
    if maximize is None and objective is None:
        return str(next(iter(named.values()), SCORE))
    ((word, name),) = named.items()
    quantity = QUANTITIES.get(str(name))
    if quantity is not None and quantity.rate:
        return quantity.terms[0][1]
    if word == "maximize":
        rates = ", ".join(each for each, own in QUANTITIES.items() if own.rate)
        raise ConstraintError(
            f"maximize={name!r}: it is no throughput; write minimise={name!r}, or maximize one of "
            f"{rates}."
        )
    return str(name)
