"""The fixtures of the tests that run an agent, and of those that send packets."""

from __future__ import annotations

from tests.agent.conftest import api_server, kubeconfig, playground
from tests.lab.fixtures import make_lab

__all__ = ["api_server", "kubeconfig", "make_lab", "playground"]
