"""Tests of egress masquerading."""
