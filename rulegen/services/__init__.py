"""Objects and the node's configuration in, `ServicePort`s out: where each packet goes, in intent.

Pure: no I/O, and no word of nft or iptables. Chains, sets and marks first appear in a target.
"""
