"""Episodes as rosbag2 (MCAP): reader, writer, CDR without rclpy, streams as arrays."""
