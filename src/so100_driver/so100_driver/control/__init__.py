"""The threads that own a bus: the follower control loop, the leader loop, what happens before them."""
