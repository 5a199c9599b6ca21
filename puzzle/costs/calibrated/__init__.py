"""Costs fitted to whole layouts that were timed in a serving engine."""
