#!/bin/bash
# What the official image's entry point does, as far as these stacks use it: the folders become the
# user's, a first start makes the cluster, its superuser POSTGRES_USER and database POSTGRES_DB, and
# runs /docker-entrypoint-initdb.d; then the server takes this process's place.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown -R postgres:postgres "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi

user=${POSTGRES_USER:-postgres}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?}"
  initdb --username="$user" --auth-local=trust --auth-host=scram-sha-256 \
    --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") ${POSTGRES_INITDB_ARGS:-}
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  pg_ctl --options="-c listen_addresses=''" --wait start
  database=${POSTGRES_DB:-$user}
  sql() { psql -v ON_ERROR_STOP=1 --no-psqlrc --username="$user" "$@"; }
  [ "$database" = postgres ] || sql --dbname=postgres -c "CREATE DATABASE \"$database\""
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
      *.sql) sql --dbname="$database" --file="$file" ;;
    esac
  done
  pg_ctl --mode=fast --wait stop
fi
exec "$@" -c listen_addresses='*'
