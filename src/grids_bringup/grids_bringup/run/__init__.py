"""The run manager: brings nodes up in order, watches them, ends the run, writes the summary."""
