#!/bin/sh
# The private environment's Python, which heeds neither the caller's variables nor the caller's packages.
exec /usr/lib/rulegen/bin/python3 -I -c 'from rulegen.cli import main; main(prog_name="rulegen")' "$@"
