"""From records to batches on the device."""
