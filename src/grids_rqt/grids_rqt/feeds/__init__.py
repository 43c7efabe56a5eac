"""The sources of the view model's data: a live graph, a bag, a demo run."""
