"""Stores: what was decoded or computed once, kept on the disk and read many times."""
