"""The scripted expert: plans from true poses, as a policy or as a person at the leader arm."""
