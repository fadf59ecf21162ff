"""IngressClasses come in; which Ingresses are served here goes out. Pure."""

from __future__ import annotations

from rulegen.errors import shown
from rulegen.kube.objects import Ingress, IngressClass

_DEFAULT = "ingressclass.kubernetes.io/is-default-class"
_OLD_ANNOTATION = "kubernetes.io/ingress.class"
# What the annotation says where there was no IngressClass yet.
_OLD_NAME = "rulegen"


class Classes:
    """`controller`: that of the classes which are ours."""

    def __init__(self, controller: str) -> None:
        self._controller = controller
        self._ours: dict[str, bool] = {}
        self._defaults: set[str] = set()

    def put(self, item: IngressClass) -> None:
        """A class as it is now."""
        name = item.metadata.name
        self.remove(name)
        self._ours[name] = item.spec is not None and item.spec.controller == self._controller
        if (item.metadata.annotations or {}).get(_DEFAULT) == "true":
            self._defaults.add(name)

    def remove(self, name: str) -> None:
        """A class is gone."""
        self._ours.pop(name, None)
        self._defaults.discard(name)

    def is_ours(self, item: Ingress, class_name: str | None) -> bool:
        """`class_name`: what the spec says; before the annotation, and that before the default."""
        if class_name is not None:
            return self._ours.get(class_name, False)
        annotation = (item.metadata.annotations or {}).get(_OLD_ANNOTATION)
        if annotation:
            return self._ours.get(annotation, annotation == _OLD_NAME)
        return any(self._ours[name] for name in self._defaults)

    def is_anothers(self, item: Ingress, class_name: str | None) -> bool:
        """Whether there is a class that it names, and whose controller is not ours."""
        name = class_name or (item.metadata.annotations or {}).get(_OLD_ANNOTATION, "")
        return not self._ours.get(name, True)

    def problem(self, item: Ingress, class_name: str | None) -> str:
        """Why nobody may serve it, where that is so: it names a class that there is not, or none; else ""."""
        if class_name is not None:
            return "" if class_name in self._ours else f"there is no IngressClass {shown(class_name)}"
        if (item.metadata.annotations or {}).get(_OLD_ANNOTATION) or self._defaults:
            return ""
        return "it names no IngressClass, and none is the default"
