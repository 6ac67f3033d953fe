"""The promises about messages that nobody took yet."""
