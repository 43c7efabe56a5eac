"""The follower's control loop and the leader's loop, one thread for each bus, and the checks before they start."""
