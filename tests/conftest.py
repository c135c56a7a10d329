"""Settings of all tests."""

import os

import hypothesis

# The first call of a kernel compiles it: no example's seconds say anything. CI draws the same examples every time.
hypothesis.settings.register_profile("gptmill", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("gptmill")
