"""What every connection meets, decided without event loop, I/O or clock: plain objects that take `now`."""
