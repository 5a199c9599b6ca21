"""A Gradio Space of an explored run: budgets are moved, and layouts compared.

`puzzle explore RUN --save layouts.json` writes what it shows, beside this file. Neither puzzle nor
a model is needed to run it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr
import plotly.graph_objects as go
from explored import best, card, read, steps

data = read(os.environ.get("LAYOUTS", Path(__file__).with_name("layouts.json")))
resources: list[str] = data["resources"]


def chart(axis: str, selected: int | None) -> go.Figure:
    """Returns all solved layouts across a resource, one of them ringed."""
    figure = go.Figure()
    for name, chosen, symbol in (
        ("solved", False, "circle"),
        ("chosen by the search", True, "diamond"),
    ):
        points = [each for each in data["layouts"] if each["chosen"] == chosen]
        figure.add_scatter(
            x=[each["shares"][axis] for each in points],
            y=[each["kl"] for each in points],
            text=[each["constraints"] for each in points],
            hovertemplate="%{text}<br>%{y:.4f} nats per token<extra></extra>",
            mode="markers",
            marker={"symbol": symbol, "size": 10},
            name=name,
        )
    if selected is not None:
        layout = data["layouts"][selected]
        figure.add_scatter(
            x=[layout["shares"][axis]],
            y=[layout["kl"]],
            mode="markers",
            marker={"symbol": "circle-open", "size": 20, "line": {"width": 3}},
            hoverinfo="skip",
            name="selected",
        )
    figure.update_layout(
        xaxis={"title": {"text": f"{axis}, share of the parent's"}, "tickformat": ".0%"},
        yaxis={"title": {"text": "sum of scores, nats per token"}, "rangemode": "tozero"},
        colorway=["#0072b2", "#d55e00", "#777777"],
        margin={"t": 10, "r": 10},
        height=400,
    )
    return figure


def pick(axis: str, *budgets: float) -> tuple[go.Figure, str]:
    """Returns the chart and the card of the best layout within budgets."""
    selected = best(data, budgets)
    return chart(axis, selected), card(data, selected)


def build() -> gr.Blocks:
    """Returns the page."""
    with gr.Blocks(title=data["heading"]) as page:
        gr.Markdown(
            f"# {data['heading']}: explore\n\nEvery point is a layout that was solved beforehand: "
            "the least sum of scores within some budgets. The sliders pick the best of them that "
            f"keeps all budgets. Shares are of the parent's, predicted; {data['scenario']}."
        )
        with gr.Row():
            sliders: list[Any] = []
            for name in resources:
                budgets = steps(data, name)
                sliders.append(
                    gr.Slider(
                        minimum=budgets[0],
                        maximum=budgets[-1],
                        value=budgets[-1],
                        step=0.1,
                        label=f"{name}, at most, % of the parent's",
                    )
                )
        axis = gr.Dropdown(resources, value=resources[0], label="across")
        figure, words = pick(resources[0], *(slider.value for slider in sliders))
        plot = gr.Plot(figure)
        with gr.Row():
            with gr.Column():
                gr.Markdown("## Selected")
                one = gr.HTML(words)
                keep = gr.Button("Keep it beside")
            with gr.Column():
                gr.Markdown("## Kept")
                other = gr.HTML("<p>Nothing yet.</p>")
        moved = [each.change for each in (axis, *sliders)]
        gr.on(moved, pick, [axis, *sliders], [plot, one], api_name="pick")
        keep.click(lambda shown: shown, one, other, api_name="keep")
    return page


if __name__ == "__main__":
    build().launch()
