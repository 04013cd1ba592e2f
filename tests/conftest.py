"""Settings of all tests: the same examples in every run, however busy the machine is.

`pytest --hypothesis-profile=search` looks for new counterexamples instead; what it finds belongs
into the test as an @example.
"""

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None, database=None)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("steady")
