"""Many runs: one supervisor for sweeps, tables and torchrun."""
