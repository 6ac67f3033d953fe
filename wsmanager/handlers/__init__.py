"""What runs for a message: checks, the handler, its reply, and what is said when it fails."""
