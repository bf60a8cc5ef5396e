"""The five stages as a Prefect flow, and the command line."""
