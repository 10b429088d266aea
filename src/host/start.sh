# shellcheck shell=dash
# How the script starts. A call at the console has the environment of a login: functions that bash exports
# and that stand in the way of programs, variables that change what those do. What systemd, the guard or the controller
# starts is clean already.

case ${1-},${CLEAN-} in
guard,* | apply,* | restore,* | record,* | settle,* | boot-*,* | *,$$) ;;
*) exec /usr/bin/env -i CLEAN=$$ SSH_CONNECTION="${SSH_CONNECTION-}" SUDO_USER="${SUDO_USER-}" REASON="${REASON-}" /bin/sh "$0" "$@" ;;
esac
case ${OVER-} in
'') ;;
*)
	# The controller waits for this line, and not for the end of the stream: what an rc file of the login started may
	# hold that open for ever.
	# shellcheck disable=SC2064 # now, not then
	trap "printf '\\n%s\\n' '$OVER'" EXIT
	unset OVER
	;;
esac
