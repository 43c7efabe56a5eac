"""The recorder node: subscriptions, the writer thread, episodes and sessions."""
