"""The URDF of the follower and the node that publishes it."""
