"""Costs measured with torch on a device of this machine."""
