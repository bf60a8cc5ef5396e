"""Prefect flows (search, studies, jobs, watched data sets), presets, and the command line."""
