"""Tests of the harness: `make bench-check`."""
