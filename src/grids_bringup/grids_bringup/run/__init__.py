"""The run manager: configures and activates the nodes in order, monitors them, ends the run, writes the summary."""
