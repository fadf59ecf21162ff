#!/bin/sh
# What `kubectl rulegen` runs; see rulegen.command.
exec /usr/lib/rulegen/bin/python3 -I -c 'from rulegen.cli import kubectl_plugin; kubectl_plugin()' "$@"
