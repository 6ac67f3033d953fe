"""The ways in: an endpoint of the manager's own, a guard around an application, a socket adopted."""
