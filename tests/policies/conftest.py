"""The fixtures of the tests that run an agent."""

from __future__ import annotations

from tests.agent.conftest import api_server, kubeconfig, playground

__all__ = ["api_server", "kubeconfig", "playground"]
