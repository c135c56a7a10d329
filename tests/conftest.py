"""Settings of all tests."""

import hypothesis

# The first call of a kernel compiles it: no example's seconds say anything.
hypothesis.settings.register_profile("gptmill", deadline=None)
hypothesis.settings.load_profile("gptmill")
