"""The MuJoCo world: arm, objects, scene, cameras, kinematics. No ROS, no clock."""
