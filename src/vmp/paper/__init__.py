"""The paper's tables as cells, the runs that they need, and what these say of its claims."""
