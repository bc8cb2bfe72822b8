"""Every part that is neither backbone nor head: pooling, recurrence, attention."""
