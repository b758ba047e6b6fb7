"""Run directories, their records, where curves go, and the hardware that a run is on."""
