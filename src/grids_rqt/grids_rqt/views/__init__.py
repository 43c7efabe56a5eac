"""Qt widgets that paint the view model."""
