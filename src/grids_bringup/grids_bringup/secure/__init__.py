"""SROS 2: what each node may do, as policy, permissions and keys, and the check before a secured run."""
