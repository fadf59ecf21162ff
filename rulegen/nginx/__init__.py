"""A driver: sections of a configuration file and certificates of compilers ⇄ nginx. Knows no feature and no object."""
