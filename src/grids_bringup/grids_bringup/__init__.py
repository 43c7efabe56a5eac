"""Which nodes make up a run, how they are started, watched and summed up."""
