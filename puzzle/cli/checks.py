"""Values of options, checked before any work: a wrong one is wrong usage, and exits with 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from puzzle import choice, costs
from puzzle.cli.flags import Given
from puzzle.cli.inputs import library_config, precision, workload
from puzzle.cli.subcommand import Subcommand, UsageError
from puzzle.errors import PuzzleError
from puzzle.limits.constraints import parse_constraints
from search_space import ENGINES, PRESETS


def check_values(command: Subcommand, given: Given) -> None:
    """Refuses options whose values are wrong whatever the parent is.

    Args:
        command: The subcommand.
        given: Its options.

    Raises:
        UsageError: A value is not allowed; the message says which are.
    """
    names = {option.name for option in command.options}
    for needed, check in CHECKS:
        if not needed <= names:
            continue
        try:
            check(given)
        except UsageError:
            raise
        except (PuzzleError, ValueError) as error:
            raise UsageError(str(error)) from error


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in (known := list(allowed)):
        raise UsageError(f"--{name} {value}: allowed: {', '.join(known)}")


def _space(given: Given) -> None:
    if "space" in given.values:
        _one_of("space", given.get("space"), PRESETS)


def _effort(given: Given) -> None:
    if "effort" in given.values:
        _one_of("effort", given.get("effort"), choice.EFFORTS)


def _scores(given: Given) -> None:
    if "scores" in given.values:
        _one_of("scores", given.get("scores"), choice.METHODS)


def _hardware(given: Given) -> None:
    """Checks the word, and that what it names is there; not what is in a file."""
    word = given.get("hardware", "cpu")
    try:
        costs.require_hardware(word)
    except PuzzleError as error:
        raise UsageError(str(error).replace(f"hardware={word!r}", f"--hardware {word}")) from error


def _constraint(given: Given) -> None:
    word = given.get("hardware", "cpu")
    if given.get("profile") is not None:
        return  # likewise
    if costs.HardwareWord.read(word).kind in ("table", "profile"):
        return  # the search reads the file, and says what is wrong with it
    units = costs.own_resources(word)
    if units is not None or costs.has_standard_resources(word):
        parse_constraints(given.get("constraint", []), resources=units)


def _engine(given: Given) -> None:
    if "engine" in given.values:
        _one_of("engine", given.get("engine"), ENGINES)
    if "format" in given.values:
        _one_of("format", given.get("format"), sorted({e.format for e in ENGINES.values()}))


# By the options that a subcommand has to have.
CHECKS: tuple[tuple[frozenset[str], Callable[[Given], object]], ...] = (
    (frozenset({"space"}), _space),
    (frozenset({"effort"}), _effort),
    # What `puzzle solve` calls scores is a file.
    (frozenset({"effort", "scores"}), _scores),
    (frozenset({"hardware"}), _hardware),
    (frozenset({"hardware", "constraint"}), _constraint),
    (frozenset({"batch", "dtype"}), workload),
    (frozenset({"dtype"}), precision),
    (frozenset({"coupling"}), library_config),
    (frozenset({"engine"}), _engine),
)
