"""Benchmarks: experiments whose answer is a time or a size; listed as `bench.NAME`."""
