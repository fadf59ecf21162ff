"""The fixtures of the agent's tests, for those of what an agent does about kube-proxy."""

from __future__ import annotations

from tests.agent.conftest import playground

__all__ = ["playground"]
