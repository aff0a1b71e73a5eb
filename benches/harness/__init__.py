"""The parts of benches/bench.py: processes, peers, load, rows, report."""
