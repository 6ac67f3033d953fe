"""What one socket is, and how many of them are reached."""
