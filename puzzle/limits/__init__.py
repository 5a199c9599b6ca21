"""Limits: scenarios, quantities, and the constraints that are put on a child."""
