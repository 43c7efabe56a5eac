"""Sample locations drawn on images: the overlay node and the run video."""
