"""GridS-SmolVLA policy: the model, its export, and the node that runs it."""
