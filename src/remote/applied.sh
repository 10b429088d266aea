# shellcheck shell=dash disable=SC3043,SC2154
# What the generation that boots wanted: the probe compares with that instead of with an inventory.

want() { cat "$ETC/current/want$1" 2>/dev/null; }
want_keys() { cat "$ETC/current/sysctl.keys" 2>/dev/null; }
