"""The command line with one feature more: `python -m tests.second_feature diff --feature blocking -f cluster.yaml`."""

from rulegen.cli import main
from rulegen.features import REGISTRY, Entry

REGISTRY["blocking"] = Entry("tests.second_feature.feature", "BlockingFeature")
main(prog_name="rulegen")
