"""The conformance kit for components."""
