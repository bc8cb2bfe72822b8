"""Datasets: lists of records."""
