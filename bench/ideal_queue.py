"""An ideal queue: first come, first served, the next free worker takes the head at once, and nothing costs anything but the work.

What a server adds to it under the same arrivals, with the same service times, is the server's own doing.
"""

import heapq


def quantile(values, share):
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def latencies(requests, workers):
    """How long requests take that arrive as they do here, in order, each with its service time, all in seconds."""
    free = [0.0] * workers
    heapq.heapify(free)
    found = []
    for arrival, service in requests:
        end = max(arrival, heapq.heappop(free)) + service
        heapq.heappush(free, end)
        found.append(end - arrival)
    return found
