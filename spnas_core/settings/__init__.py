"""Settings of a run and of its parts: pydantic models, frozen, unknown keys refused."""
