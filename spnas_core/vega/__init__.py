"""Vega's pipeline files, read as presets."""
