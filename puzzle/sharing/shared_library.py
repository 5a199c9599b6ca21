"""SharedLibrary: a parent's variants, scores and profiles, from which children are chosen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle.choice.goals import Goals
from puzzle.costs.by_name import cost_model, is_run_here, require_hardware
from puzzle.costs.counted import with_counts
from puzzle.costs.profile import Profile
from puzzle.costs.protocol import CostModel
from puzzle.costs.served import served_format
from puzzle.errors import CostModelError, DataError, ParentError
from puzzle.hardware.precision import Precision
from puzzle.hardware.torch_state import own_torch_state
from puzzle.library.build import Library
from puzzle.library.fitting import attention_key, ffn_key
from puzzle.library.layers import ERRORS
from puzzle.library.settings import LibraryConfig
from puzzle.library.variants import TENSORS
from puzzle.limits.constraints import Constraint, parse_constraints
from puzzle.limits.requirements import SCORE
from puzzle.limits.scenario import Scenario, Workload
from puzzle.models.parent import DTYPES, Parent
from puzzle.pipeline.layout_child import LayoutChild, child_of
from puzzle.pipeline.opening import Inputs, Opened, open_run, open_workspace
from puzzle.pipeline.steps import Steps
from puzzle.scoring.scores import Scores
from puzzle.sharing.index import INDEX, Index, VariantFile
from puzzle.sharing.picked import Picked
from puzzle.sharing.places import HubRepository, Place, place_of
from puzzle.storage.hashing import hash_file
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Workspace
from puzzle.text.data_config import DataConfig
from search_space import Block, Layout, ModelShape
from solvers import InfeasibleError, Solution, solve

if TYPE_CHECKING:
    import torch

__all__ = ["SharedLibrary"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SharedLibrary:
    """What a search of one parent is chosen from, made by somebody who had the hardware for it.

    Opening it reads an index and the scores, some kilobytes; choosing a layout needs neither the
    parent nor its variants; and a child needs only the variants that its layout has.

    Args:
        place: Where its files are.
        index: What it holds.
        scores: The scores of all blocks.

    Example:
        >>> library = SharedLibrary.open("me/my-library")  # doctest: +SKIP
        >>> picked = library.choose("throughput >= 1.5x", hardware="h100")  # doctest: +SKIP
        >>> library.child(picked.layout, parent, workspace)  # doctest: +SKIP
    """

    place: Place
    index: Index
    scores: Scores

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
    ) -> SharedLibrary:
        """Opens a library that `puzzle.sharing.share` wrote.

        Args:
            source: Its directory, or a hub id.
            revision: Hub revision; everything that is read later is of the same commit.
            token: Hub token.
            endpoint: Another Hub.

        Raises:
            DataError: It is not there, cannot be downloaded, or is damaged.
        """
        place: Place = place_of(source, revision=revision, token=token, endpoint=endpoint)
        if isinstance(place, HubRepository):
            place = place.at_commit_of(INDEX)
        file = place.file(INDEX)
        with interpreting(file, "the index of a shared library"):
            index = Index.from_dict(read_object(file, "the index of a shared library"))
        scores = _checked(place, index.scores)
        with interpreting(scores, "scores"):
            rows = Scores.from_dict(read_object(scores, "scores"))
            for layer in range(index.space.shape.layers):
                for block in index.space.blocks(layer):
                    rows.kl(layer, block.label)
        return cls(place=place, index=index, scores=rows)

    @property
    def shape(self) -> ModelShape:
        """The parent's sizes."""
        return self.index.space.shape

    def __repr__(self) -> str:
        profiles = ", ".join(self.index.profiles) or "none"
        return (
            f"SharedLibrary({self.place}: {self.index.parent.name}, {self.shape.layers} layers, "
            f"{self.scores!r}, profiles: {profiles})"
        )

    def profile(self, name: str) -> Profile:
        """Returns one of its profiles.

        Raises:
            DataError: It has none of that name, or the file was altered.
        """
        if name not in self.index.profiles:
            known = ", ".join(self.index.profiles) or "none"
            raise DataError(f"{self.place} has no profile {name!r}; it has {known}")
        return Profile.load(_checked(self.place, self.index.profiles[name]), shape=self.shape)

    def choose(
        self,
        constraints: str | Iterable[str | Constraint] | Mapping[str, str | float] = (),
        *,
        hardware: str | os.PathLike[str] | CostModel | None = None,
        scenario: Scenario | None = None,
        minimise: str = SCORE,
        solver: str = "highs",
        seed: int = 0,
    ) -> Picked:
        """Returns the layout with the least sum of scores under constraints.

        Args:
            constraints: As for `puzzle.search`.
            hardware: The name of one of its profiles, or hardware as for `puzzle.search` that
                is not measured here; by default its only profile.
            scenario: What is served; by default that of the profile.
            minimise: As for `puzzle.search`.
            solver: As for `puzzle.search`.
            seed: Of the solver.

        Raises:
            CostModelError: The hardware is unknown, would have to be measured, or is a profile of
                another parent or scenario.
            InfeasibleError: No layout meets the constraints.
        """
        costs, scenario = self.costs(hardware, scenario)
        counted = with_counts(costs, self.shape)
        parsed = parse_constraints(constraints, resources=counted.resources)
        goals = Goals(parsed, Workload.of(scenario), counted, self.index.space, minimise)
        goals.refuse_unreachable()
        solution = self.solve(goals, solver=solver, seed=seed)
        layout = self.layout(solution)
        return Picked(
            layout=layout,
            solution=solution,
            kl=self.scores.total(layout),
            outcomes=tuple(
                (str(each.constraint), each.words(total, goals.parent))
                for each in goals.required
                for total in [goals.totals(layout, self.scores)[each.column.name]]
            ),
        )

    def solve(self, goals: Goals, *, solver: str = "highs", seed: int = 0) -> Solution:
        """Returns the program's answer to goals.

        Raises:
            InfeasibleError: No layout meets the constraints.
        """
        try:
            return solve(goals.problem(self.scores, timed=True), solver=solver, seed=seed)
        except InfeasibleError as error:
            raise goals.in_words(error) from error

    def layout(self, solution: Solution) -> Layout:
        """Returns the layout of a solution."""
        return Layout(self.shape, tuple(map(Block.from_label, solution.labels)))

    def costs(
        self, hardware: str | os.PathLike[str] | CostModel | None, scenario: Scenario | None
    ) -> tuple[CostModel, Scenario]:
        """Returns the cost model that hardware names, and its scenario; as for `choose`."""
        names = ", ".join(self.index.profiles) or "none"
        if hardware is None:
            if len(self.index.profiles) != 1:
                raise CostModelError(
                    f"hardware is missing; the profiles of the library: {names}. Give the name of "
                    "one, the path of another, or e.g. 'roofline:h100-sxm'"
                )
            (hardware,) = self.index.profiles
        if isinstance(hardware, str) and hardware in self.index.profiles:
            profile = self.profile(hardware)
            taken = (scenario or profile.scenario).served_in(profile.scenario.served_dtype)
            profile.require(scenario=taken)
            return profile, taken
        if is_run_here(hardware):
            raise CostModelError(
                f"hardware={hardware!r} would have to be measured, for which the parent is needed; "
                "take a profile (puzzle profile PARENT --save here.json) and give its path, or "
                f"give the name of one of the library's: {names}"
            )
        require_hardware(hardware)
        served = served_format(hardware).name
        if scenario is None and Path(str(hardware)).suffix.lower() == ".json":
            return (profile := Profile.load(str(hardware), shape=self.shape)), profile.scenario
        scenario = (scenario or Scenario()).served_in(served)
        return cost_model(hardware, shape=self.shape, scenario=scenario), scenario

    def require_parent(self, parent: Parent) -> None:
        """Refuses a parent that the library is not of.

        Raises:
            ParentError: Its weights differ, or it is opened in another number format.
        """
        record = self.index.parent
        if parent.weights != record.weights:
            raise ParentError(
                f"{self.place} is of {record.name!r}, whose config and weights hash to "
                f"{record.weights}, and the parent given has {parent.weights}; give the same "
                "revision of the same model"
            )
        dtype = str(parent.dtype).removeprefix("torch.")
        if dtype != record.dtype:
            raise ParentError(
                f"{self.place} was fitted in {record.dtype}; open the parent with "
                f"dtype={record.dtype!r}, not {dtype!r}"
            )

    def library(self, layout: Layout, parent: Parent, workspace: Workspace) -> Library:
        """Returns the variants of a layout; only their files are read, or downloaded.

        Args:
            layout: The layout.
            parent: The parent, opened.
            workspace: Where they are kept.

        Raises:
            ParentError: The library is not of this parent.
            DataError: A file is missing or altered.
        """
        self.require_parent(parent)
        layers = []
        for layer, block in enumerate(layout.blocks):
            files = {name: self.index.variants[layer][name] for name in self._needed(layer, block)}
            spec = {"layer": layer, "files": {name: each.hash for name, each in files.items()}}

            def build(directory: Path, files: Mapping[str, VariantFile] = files) -> None:
                self._collect(files, directory)

            layers.append(workspace.get_or_build("shared-layer", spec, build))
        return Library(parent=parent, layers=tuple(layers))

    @own_torch_state()
    def child(
        self,
        layout: Layout,
        *,
        parent: Any = None,
        text: Any = None,
        tokenizer: Any = None,
        data: DataConfig | None = None,
        out: str | os.PathLike[str] = "puzzle-run",
    ) -> LayoutChild:
        """Returns the child of a layout, of the library's variants or, with text, healed.

        Args:
            layout: The layout, such as that of `choose`.
            parent: The parent, as for `puzzle.search`; by default by the name that the library has.
            text: Text to fit the blocks to what enters them in the child, and to measure it on, as
                for `puzzle.search`. It makes better children. Without it nothing is fitted or
                measured.
            tokenizer: As for `puzzle.search`.
            data: How much text is used.
            out: Where the variants are kept.

        Raises:
            ParentError: The library is not of this parent.
            DataError: A file is missing or altered, or the layout is of another shape.
        """
        record = self.index.parent
        if layout.shape != self.shape:
            raise DataError(f"the layout is not of {record.name!r}: its sizes differ")
        inputs = Inputs(
            parent=parent,
            text=text,
            workload=Workload.of(Scenario(prompt_tokens=1, generated_tokens=1)),
            tokenizer=tokenizer,
            data=data or DataConfig(),
            shorten=data is None,
        )
        return self.child_in(self.open_parent(inputs, open_workspace(out)), layout)

    def open_parent(self, inputs: Inputs, place: Workspace) -> Opened:
        """Returns a run of the library's parent, in the number format of the library.

        Args:
            inputs: What is opened; a parent that is None is that of the library's name.
            place: The run directory.

        Raises:
            ParentError: It is another parent.
        """
        record = self.index.parent
        own = Precision(working=record.dtype, stored=record.dtype)
        parent = record.name if inputs.parent is None else inputs.parent
        opened = open_run(replace(inputs, parent=parent, precision=own), place)
        self.require_parent(opened.run.parent)
        return opened

    def child_in(self, opened: Opened, layout: Layout) -> LayoutChild:
        """Returns the child of a layout, healed and measured if the run has text.

        Args:
            opened: What `open_parent` returned.
            layout: The layout.
        """
        run, dtype = opened.run, DTYPES[self.index.parent.dtype]
        if run.windows is None:
            library = self.library(layout, run.parent, run.workspace)
            return LayoutChild(layout=layout, library=library, dtype=dtype)
        with interpreting(str(self.place), "a shared library"):
            config = LibraryConfig.from_dict(self.index.made["config"])
        steps = Steps(space=self.index.space, workload=opened.workload, config=config)
        return child_of(opened, steps, layout)

    def _needed(self, layer: int, block: Block) -> list[str]:
        """Returns the names of the variants that a block is made of."""
        own, have = self.shape.parent_blocks[layer], self.index.variants[layer]
        coupled = ffn_key(block.attention, block.ffn)
        ffn = coupled if coupled in have else ffn_key(own.attention, block.ffn)
        return [name for name in (attention_key(block.attention), ffn) if name in have]

    def _collect(self, files: Mapping[str, VariantFile], directory: Path) -> None:
        from safetensors.torch import load_file

        tensors: dict[str, torch.Tensor] = {}
        for name, each in files.items():
            stored = load_file(_checked(self.place, each))
            tensors |= {f"{name}/{inner}": tensor for inner, tensor in stored.items()}
        save_tensors(directory / TENSORS, tensors)
        (directory / ERRORS).write_text(json.dumps({}), encoding="utf-8")


def _checked(place: Place, entry: VariantFile) -> Path:
    path = place.file(entry.file)
    if path.stat().st_size != entry.size or hash_file(path) != entry.hash:
        raise DataError(
            f"{path} was altered: its hash is not that of the library's index; delete it, and copy "
            "or download it again"
        )
    return path
