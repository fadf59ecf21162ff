#!/bin/sh
# What kubectl asks to complete `kubectl rulegen`; see rulegen.command.
exec /usr/lib/rulegen/bin/python3 -I -c 'from rulegen.cli import kubectl_completion; kubectl_completion()' "$@"
