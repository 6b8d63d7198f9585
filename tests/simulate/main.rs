//! Whole lives of a server, simulated: pool, vault, clocks, faults; see `docs/simulation.md`.
