"""Fusions: several streams to one."""
