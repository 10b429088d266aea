# shellcheck shell=dash
# The first lines of a document. Its last one tells the controller that the answer is whole, because what an rc file of
# the login started may hold the stream open for ever (start.sh does it for the script that a document calls).
CLEAN=$$
export OVER CLEAN
# shellcheck disable=SC2154 # the document sets it
trap 'printf "\n%s\n" "$OVER"' EXIT
