"""The conformance kit for components: two lines of test for everything a distribution registers.

from actionkit.testing import conformance

test_conformance = conformance("my-dist")
"""

from actionkit.testing.kit import conformance

__all__ = ["conformance"]
