"""wsmanager."""
