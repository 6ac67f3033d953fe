"""What holds the parts of one manager together, from the handshake to the end of the process."""
