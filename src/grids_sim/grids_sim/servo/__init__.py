"""STS3215 servos on a serial line: control table, packets, the bank and its pseudo-terminal."""
