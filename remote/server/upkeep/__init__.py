"""Upkeep: what keeps a store in order beside a server that runs: collecting, packing, scrubbing, backing up."""
