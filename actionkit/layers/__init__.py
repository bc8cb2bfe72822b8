"""What parts of several kinds are built from: recurrences, and the order of real steps."""
