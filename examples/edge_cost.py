"""A cost model of your own: cycles on an NPU with 4 MiB on chip, checked and used for a choice.

python examples/edge_cost.py
"""

from puzzle.costs.checked import usable_blocks
from puzzle.costs.columns import block_columns, fixed_columns, layout_columns
from puzzle.costs.counted import with_counts
from puzzle.limits.constraints import parse_constraints
from puzzle.limits.requirements import limits, requirements
from puzzle.limits.scenario import Scenario
from puzzle.testing import check_cost_model
from search_space import Layout, ModelShape, SearchSpace, counting
from solvers import ChoiceProblem, solve


class EdgeCost:
    """Cycles of an accelerator that multiplies 32 x 32 tiles and streams weights in 8 bits."""

    resources = {"cycles": "cycles"}  # noqa: RUF012
    TILE, BYTES_PER_CYCLE, ON_CHIP = 32 * 32, 16, 4 * 2**20

    def __init__(self, shape):
        """Keeps the sizes."""
        self.shape = shape

    def block_cost(self, layer, block, scenario):
        """Multiply or stream, whichever takes longer; infinite if the cache exceeds the chip."""
        cache = scenario.total_tokens * counting.block_kv_bytes_per_token(self.shape, block, 1)
        if cache > self.ON_CHIP:
            return {"cycles": float("inf")}
        parameters = counting.block_parameters(self.shape, block)
        stream = scenario.generated_tokens * parameters / self.BYTES_PER_CYCLE
        return {"cycles": max(parameters * scenario.total_tokens / self.TILE, stream)}

    def fixed_cost(self, shape, scenario):
        """The output head, once for each decoded token."""
        return {"cycles": shape.vocab * shape.hidden * scenario.decoded_tokens / self.TILE}


def proxy_score(shape, layer, block):
    """Takes the place of a library's scores here: the square of what a layer loses."""
    lost = 1 - counting.block_parameters(shape, block) / counting.block_parameters(
        shape, shape.parent_blocks[0]
    )
    return (1 + 1 / (1 + layer)) * lost**2


def main() -> Layout:
    """Checks the model, then solves for the least loss within 80 % of the parent's cycles."""
    shape = ModelShape(
        layers=12, hidden=576, heads=9, head_dim=64, kv_heads=3, ffn_width=1536, vocab=49152,
        tied=True,
    )  # fmt: skip
    space, scenario = SearchSpace.preset(shape, "small"), Scenario(batch=1)
    check_cost_model(EdgeCost(shape), space, scenario)

    costs = with_counts(EdgeCost(shape), shape)  # memory, KV cache, parameters and FLOPs as well
    constraints = parse_constraints("cycles <= 0.8x, memory <= 200 MiB", resources=costs.resources)
    required = requirements(constraints, scenario)
    columns = [each.column for each in required]
    rows = usable_blocks(costs, space, scenario)
    problem = ChoiceProblem(
        [[block.label for block in blocks] for blocks in rows],
        [proxy_score(shape, layer, b) for layer, blocks in enumerate(rows) for b in blocks],
        block_columns(costs, rows, columns),
        offsets=fixed_columns(costs, shape, columns),
        limits=limits(required, layout_columns(costs, Layout.parent(shape), columns)),
    )
    solution = solve(problem)
    layout = Layout(shape, tuple(rows[i][at] for i, at in enumerate(solution.choices)))
    print(layout)
    print({name: f"{total:.4g}" for name, total in solution.resources.items()})
    return layout


if __name__ == "__main__":
    main()
