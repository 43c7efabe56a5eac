"""Public simulators as evaluation suites: each in a process and an environment of its own, behind one interface."""
