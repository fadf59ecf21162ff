"""A driver: record sets of features kept in the zones of a name server, by transfers and dynamic updates.

All of DNS is dnspython's, an extra that is imported where it is used. Nothing here knows a feature.
"""
