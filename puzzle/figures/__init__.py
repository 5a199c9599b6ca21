"""Figures that several packages draw: what a heat map holds, and how it is drawn."""
