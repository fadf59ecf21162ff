"""What an agent for a cluster does beside its work: health, metrics, Events. In: its parts; out: observers.

A replica that waits for the Lease answers too, so that it counts as ready.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import ExitStack, closing
from http import HTTPStatus
from typing import TYPE_CHECKING

from rulegen.agent.http.cluster_health import ClusterHealth
from rulegen.agent.http.health import healthz_application
from rulegen.agent.http.pages import Page, Pages
from rulegen.agent.http.server import HttpServer, respond_text
from rulegen.agent.http.status import status_application
from rulegen.agent.observers.cluster_metrics import ClusterMetrics
from rulegen.agent.observers.observers import EventObserver
from rulegen.agent.run.descriptors import shares
from rulegen.config import Configuration
from rulegen.reconcile.driver import LiveRules, OpenDriver, WithMetrics
from rulegen.reconcile.feature import Feature, WithObservers
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Reconciler

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from rulegen.agent.observers.events import EventRecorder
    from rulegen.agent.run.assembly import Control, Options


class BesideCluster:
    """Listens from the start. `stack`: what is opened is closed with it. Raises HostError, see `Pages`."""

    def __init__(
        self,
        options: Options,
        configuration: Configuration,
        control: Control,
        kinds: Collection[type],
        stack: ExitStack,
    ) -> None:
        agent = configuration.agent
        self._options = options
        self._configuration = configuration
        self._stack = stack
        self._health = ClusterHealth(agent.sync_period)
        self._metrics = ClusterMetrics(
            configuration.features[0],
            kinds,
            control.work_queue.waiting,
            lambda: bool(control.configuration_problem()),
        )
        about_itself = status_application(configuration, self._metrics.registry, options.recent_log)
        about_health = healthz_application(self._health, self._metrics.health_answer, _no_status)
        self._pages = Pages(
            stack.enter_context(closing(HttpServer(shares().connections))),
            [
                Page("healthzBindAddress", agent.healthz_bind_address, about_health),
                Page("metricsBindAddress", agent.metrics_bind_address, about_itself),
            ],
            must_listen=agent.bind_address_hard_fail,
        )

    def waits(self) -> None:
        """To be called now and then while another replica works."""
        now = time.monotonic()
        if (due := self._pages.wait(now)) is not None and due <= 0:
            self._pages.act(now)

    def leads(
        self, reconciler: Reconciler, opened: OpenDriver, rules: LiveRules, features: Iterable[Feature]
    ) -> list[Observer]:
        """This replica works from now on; who is to be told of that."""
        self._health.leads()
        self._metrics.leads(reconciler)
        if isinstance(opened, WithMetrics):
            opened.add_metrics(self._metrics.registry, rules)
        of_features = [one for feature in features if isinstance(feature, WithObservers) for one in self._of(feature)]
        return [self._metrics, self._health, EventObserver(reconciler, self._recorder()), self._pages, *of_features]

    def _of(self, feature: WithObservers) -> Iterable[Observer]:
        return feature.observers(self._metrics.registry)

    def _recorder(self) -> EventRecorder | None:
        if self._options.files:
            return None
        from rulegen.agent.observers.events import EventRecorder
        from rulegen.kube.api import connect

        api = connect(self._configuration.agent.kubeconfig, self._options.server)
        recorder = EventRecorder(api, self._configuration.features[0])
        recorder.start()
        self._stack.callback(recorder.stop)
        return recorder


def _no_status(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    del environ
    return respond_text(start_response, HTTPStatus.NOT_FOUND)
