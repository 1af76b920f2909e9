"""Many runs: sweeps, tables and torchrun under one supervisor."""
