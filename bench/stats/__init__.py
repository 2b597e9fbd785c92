"""Statistics of measurements: intervals, comparisons and searches, and the simulations that prove them.

The unit is the run. Requests of one run resemble each other, so an interval made from them as if they were
independent is far too narrow.
"""
