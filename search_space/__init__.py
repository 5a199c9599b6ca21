"""What an architecture is: frozen values that import neither torch nor puzzle."""

from search_space import counting, formats
from search_space.blocks import FFN, Attention, Block
from search_space.drawing import diff_svg, layout_svg, plot_diff, plot_layout
from search_space.engine_tables import engine_table
from search_space.engines import (
    ENGINES,
    ServingEngine,
    UnsupportedLayoutError,
    check_layout,
    engines_for,
)
from search_space.fusion import FusedRun, Fusion, candidate_runs, fusible_runs, plan_fusion
from search_space.layout import Layout
from search_space.options import LayerOptions
from search_space.pipeline import (
    Pipeline,
    balance_pipeline,
    identity_layers,
    insert_identity_layers,
    remove_identity_layers,
)
from search_space.presets import PRESETS
from search_space.published import PublishedLayout, published_layout, published_names
from search_space.shape import ModelShape, SublayerCounts
from search_space.space import SearchSpace
from search_space.weight_formats import WEIGHT_FORMATS, WeightFormat

__all__ = [
    "ENGINES",
    "FFN",
    "PRESETS",
    "WEIGHT_FORMATS",
    "Attention",
    "Block",
    "FusedRun",
    "Fusion",
    "LayerOptions",
    "Layout",
    "ModelShape",
    "Pipeline",
    "PublishedLayout",
    "SearchSpace",
    "ServingEngine",
    "SublayerCounts",
    "UnsupportedLayoutError",
    "WeightFormat",
    "balance_pipeline",
    "candidate_runs",
    "check_layout",
    "counting",
    "diff_svg",
    "engine_table",
    "engines_for",
    "formats",
    "fusible_runs",
    "identity_layers",
    "insert_identity_layers",
    "layout_svg",
    "plan_fusion",
    "plot_diff",
    "plot_layout",
    "published_layout",
    "published_names",
    "remove_identity_layers",
]
