#!/bin/sh
# Runs `tollgate ARGUMENTS` as a service in a container.
#
# Docker's restart policies cannot tell exit codes apart. Here, wrong usage (2) and a wrong setting or file (4) are tried
# three times, and then wait for a person: the container stays, is unhealthy, and its last line says why. Every other end
# is the container's end, and the restart policy starts it again.

TRIES=3
PAUSE_SECONDS=${PAUSE_SECONDS:-5}
GAVE_UP=${TMPDIR:-/tmp}/gave-up

stop() {
  [ -z "$child" ] || kill -TERM "$child" 2> /dev/null
  stopping=yes
}
child='' stopping=''
trap stop TERM INT

# Starts a child. A stop that came before its number was known is passed on now.
start() {
  "$@" &
  child=$!
  [ -z "$stopping" ] || kill -TERM "$child" 2> /dev/null
}

# Waits for the child, also when a signal cuts the waiting short. The child's exit code is in `code`.
await() {
  while :; do
    wait "$child"
    code=$?
    kill -0 "$child" 2> /dev/null || break
  done
}

try=1
while [ -z "$stopping" ]; do
  start tollgate "$@"
  await
  case $code in 2 | 4) ;; *) exit "$code" ;; esac
  [ "$try" -lt "$TRIES" ] || break
  try=$((try + 1))
  start sleep "$PAUSE_SECONDS"
  await
done
[ -z "$stopping" ] || exit 0

echo "supervise: \`tollgate $*\` ended with code $code $TRIES times, and is not tried again. The lines above say why. Correct it, and restart this container." >&2
: > "$GAVE_UP"
# Short sleeps: a signal to a child that is just being made may be lost, and then nobody would end a long one.
child=''
while [ -z "$stopping" ]; do
  sleep 1 &
  wait "$!"
done
exit 0
