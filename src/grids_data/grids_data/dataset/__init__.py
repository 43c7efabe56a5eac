"""LeRobot datasets v3.0 and v2.1: schema, reader, writer, statistics, video, frame cache."""
