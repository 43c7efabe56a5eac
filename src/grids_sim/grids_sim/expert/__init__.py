"""The scripted expert: plans from true poses, as a policy or as a teleoperator of the leader arm."""
