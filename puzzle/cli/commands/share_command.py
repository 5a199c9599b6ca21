"""puzzle share: `puzzle.sharing.share`, and `push` to a Hub."""

from __future__ import annotations

from puzzle import sharing
from puzzle.cli.commands.score_command import METHODS, method_of
from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import BLD, LIBRARY, STAGE, library_config, open_stages
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.costs.profile import Profile
from puzzle.errors import PuzzleError
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import require_replaceable

OWN = (
    Option(
        name="method",
        parameter="method",
        default="hybrid",
        help="how blocks are scored",
        choices=METHODS,
    ),
    Option(
        name="profile",
        parameter="profile",
        many=True,
        help="a file of puzzle profile --save to share as well, under its name; repeatable",
    ),
    Option(
        name="name",
        parameter="name",
        help="the parent's hub id, for those who get the library; by default what was given, or "
        "of a path its last part",
    ),
    Option(
        name="save",
        parameter="save",
        default="library in the run directory",
        help="the directory to write the library to",
    ),
    Option(name="push", parameter="push", help="also upload it to this repository of the Hub"),
    Option(
        name="private",
        parameter="private",
        type=bool,
        default=False,
        help="make a new repository private",
    ),
)


def _run(given: Given) -> Answer:
    method = method_of(given)
    target = user_path(given.get("save", user_path(given.get("out", "puzzle-run")) / "library"))
    require_replaceable(target, sharing.FILES)
    try:
        profiles = {user_path(f).stem: Profile.load(f) for f in given.get("profile", [])}
    except PuzzleError as error:
        raise UsageError(f"--profile: {error}") from error
    opened = open_stages(given, method=method)
    run, steps = opened.run, opened.steps
    library = run.get(steps.library)
    path = sharing.share(
        library,
        run.get(steps.scores(library.refs)),
        steps.space,
        target,
        name=given.get("name", _public_name(given)),
        profiles=profiles,
        config=library_config(given),
        text={part: run.text.hash(part) for part in ("fit", "score")},
    )
    values = {"path": str(path), "url": None}
    words = f"library: {path}"
    if (repository := given.get("push")) is not None:
        values["url"] = sharing.push(path, repository, private=given.get("private") or None)
        words += f"\npushed: {values['url']}"
    return Answer(values=values, text=words)


def _public_name(given: Given) -> str:
    """Returns what the parent is called elsewhere: of a path of this machine, its last part."""
    parent: str = given.get("parent") or "SmolLM2-135M-Instruct"
    path = user_path(parent)
    return path.name if path.exists() else parent


SHARE = Subcommand(
    name="share",
    help="write the library of a parent, its scores and profiles for others, and push it to a Hub",
    options=(*STAGE, *OWN, *LIBRARY, *BLD),
    examples=(
        "puzzle share --demo --profile cpu.json --save library",
        "puzzle share me/parent --text corpus.txt --push me/parent-library",
    ),
    run=_run,
)
