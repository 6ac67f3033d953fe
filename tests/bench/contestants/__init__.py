"""One server a file, each a program of its own: ``python -m tests.bench.contestants.bare --port 8000``.

They import nothing of the benchmark but `messages` and `launch`, so that none carries another's modules.
"""
