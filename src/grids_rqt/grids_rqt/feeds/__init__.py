"""What fills the view model: a live graph, a bag, a demo run."""
