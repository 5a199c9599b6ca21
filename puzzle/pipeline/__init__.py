"""The pipeline: a search from parent and text to a measured child."""
