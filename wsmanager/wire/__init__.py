"""Bytes, frames and encodings, and what an ASGI callable is."""
