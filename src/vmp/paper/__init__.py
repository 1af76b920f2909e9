"""The paper's tables as cells, the runs that they need, and what the runs say about its claims."""
