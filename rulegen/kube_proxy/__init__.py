"""Another proxy on this node: whether it runs, what of its rules is in the kernel and since when, and their removal.

In: what /proc, two ports and the kernel show of kube-proxy in this network namespace. Out: sightings, digests of its
rules, a judgement whether it is gone, and removals. Never touches anybody else's rules; nothing here is removed by
itself: whoever calls decides, by the judgement or as a person.
"""
