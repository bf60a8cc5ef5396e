"""The search itself, as pure functions: proposals, operators, the ledger and its Pareto ranks, bounds on the cost of candidates."""
