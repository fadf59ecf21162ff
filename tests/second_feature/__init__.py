"""A second feature, as small as one can be: packets to Services with a label are not forwarded.

It lives in this folder, and in one line of the registry, which `__main__` adds: that it goes through everything that
Services go through, without an edit anywhere else, is the test of what separates features from drivers.
"""
