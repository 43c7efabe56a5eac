"""The viewer in a browser: a page, its data and who may open it."""
