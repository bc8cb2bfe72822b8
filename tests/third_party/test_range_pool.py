from actionkit.testing import conformance

test_conformance = conformance("actionkit-range-pool")
