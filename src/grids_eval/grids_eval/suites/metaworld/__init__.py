"""Meta-World: fifty tasks of one arm, with the scripted experts of the package."""
