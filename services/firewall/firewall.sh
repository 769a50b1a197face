#!/bin/sh
# Who may reach the ports that this host publishes on the LAN.
#
#   services/firewall/firewall.sh [show|apply|remove|check|unit] [--env-file FILE]
#
#   show    print what `apply` would run, and how to keep it over a restart (the default)
#   apply   put the rules in place; a second time changes nothing
#   remove  take them away again
#   check   say whether they are in place
#   unit    print a systemd unit that applies them after Docker has started
#
# Settings are read, not executed, from FILE, else $VARIET_ENV_FILE, else .env of the repository.
# On the brain only HANDS_IP is admitted; on the workstation, where BIND_ADDR is not loopback, the
# network of that address. Docker forwards published ports before INPUT is asked, so the rules hang
# in DOCKER-USER and look at where a connection was headed before Docker redirected it. The ones in
# INPUT are for what docker-proxy relays by itself, as it does from IPv6 to containers without.
# Others get no answer at all, so that `variet doctor` can tell this from a stack that is down.
#
# Exit status: 0 done, or in place; 1 not in place; 2 wrong use or settings; 3 not possible here.
set -eu

PUBLISHED=VARIET-PUBLISHED
INPUT=VARIET-INPUT
NAME=firewall.sh

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
repository=$(dirname -- "$(dirname -- "$here")")

fail() { # STATUS MESSAGE
    printf '%s: %s\n' "$NAME" "$2" >&2
    exit "$1"
}

# ---- settings ----

setting() { # KEY: its last value in the file, without quotes and comment
    sed -n "s/^[[:space:]]*\(export[[:space:]][[:space:]]*\)\{0,1\}$1[[:space:]]*=[[:space:]]*//p" \
        "$env_file" | tail -n 1 | tr -d '\r' |
        sed -e "s/^\"\([^\"]*\)\".*/\1/;t" -e "s/^'\([^']*\)'.*/\1/;t" \
            -e 's/[[:space:]]#.*//' -e 's/^#.*//' -e 's/[[:space:]]*$//'
}

family() { # ADDRESS: 4 or 6, nothing if it is neither
    if printf '%s\n' "$1" | grep -Eqx '[0-9]{1,3}(\.[0-9]{1,3}){3}'; then
        printf '%s\n' "$1" | tr . '\n' | while read -r part; do
            [ "$part" -le 255 ] || exit 1
        done && echo 4
    elif printf '%s\n' "$1" | grep -Eqx '[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*'; then
        echo 6
    fi
}

read_address() { # KEY FLAG: sets $value, one address
    value=$(setting "$1")
    [ -n "$value" ] || fail 2 "$1 is not set in $env_file. Run: variet init $2 IP"
    case "$(family "$value")" in
        '') fail 2 "$1=$value is no IP address. Correct it in $env_file." ;;
    esac
    case "$value" in
        0.0.0.0 | ::) fail 2 "$1=$value has to be one address, not all. Correct it in $env_file." ;;
    esac
}

read_port() { # KEY DEFAULT: adds it to $ports
    value=$(setting "$1")
    value=${value:-$2}
    case "$value" in
        *[!0-9]* | ??????*) fail 2 "$1=$value is no port. Correct it in $env_file." ;;
    esac
    if [ "$value" -lt 1 ] || [ "$value" -gt 65535 ]; then
        fail 2 "$1=$value is no port. Correct it in $env_file."
    fi
    ports="$ports $value"
}

network_of() { # ADDRESS: the network that it has here, as ADDRESS/BITS
    command -v ip >/dev/null || fail 3 "the program ip is missing. Install iproute2."
    found=$(ip -o addr show to "$1" | awk 'NR == 1 { print $4 }')
    [ -n "$found" ] || fail 2 "$1 is no address of this host. Correct $2 in $env_file."
    printf '%s\n' "$found"
}

read_brain() {
    read_address LAN_IP --lan-ip && address=$value
    read_address HANDS_IP --hands-ip && admitted=$value
    [ "$(family "$address")" = "$(family "$admitted")" ] || fail 2 \
        "LAN_IP=$address and HANDS_IP=$admitted are not of one IP version. Correct $env_file."
    [ "$address" != "$admitted" ] || fail 2 \
        "LAN_IP and HANDS_IP are both $address: one host. Correct HANDS_IP in $env_file."
    read_port GATEWAY_PORT 8000
}

read_hands() {
    address=$(setting BIND_ADDR)
    key=BIND_ADDR
    case "${address:-127.0.0.1}" in
        127.* | ::1 | localhost)
            address=
            return
            ;;
        0.0.0.0 | ::)
            read_address LAN_IP --lan-ip && address=$value
            key=LAN_IP
            ;;
    esac
    [ -n "$(family "$address")" ] ||
        fail 2 "$key=$address is no IP address. Correct it in $env_file."
    admitted=$(network_of "$address" "$key")
    read_port PORT 8001
    case ",$(setting COMPOSE_PROFILES | tr -d ' ')," in
        *,langfuse,*)
            read_port LANGFUSE_PORT 3000
            read_port LANGFUSE_S3_PORT 8333
            ;;
    esac
}

read_settings() {
    [ -r "$env_file" ] || fail 2 "$env_file cannot be read. Run: variet init"
    role=$(setting VARIET_ROLE)
    ports=
    case "$role" in
        brain) read_brain ;;
        hands) read_hands ;;
        '') fail 2 "VARIET_ROLE is not set in $env_file. Run: variet init" ;;
        *) fail 2 "VARIET_ROLE=$role is neither brain nor hands. Correct it in $env_file." ;;
    esac
}

# ---- the rules ----

# Only the first direction of a connection is judged (--ctdir): an answer bears the same original
# destination, and a container's own call to such a port elsewhere was not redirected (DNAT).
rules() { # FAMILY: the input of iptables-restore
    cat <<RULES
*filter
:$PUBLISHED - [0:0]
:$INPUT - [0:0]
-A $INPUT -i lo -m comment --comment variet -j RETURN
RULES
    for port in $ports; do
        if [ "$1" = "$(family "$address")" ]; then
            cat <<RULES
-A $PUBLISHED -p tcp -m conntrack --ctorigsrc $admitted --ctorigdst $address --ctorigdstport $port --ctdir ORIGINAL -m comment --comment variet -j RETURN
-A $INPUT -s $admitted -d $address -p tcp -m conntrack --ctorigdstport $port --ctdir ORIGINAL -m comment --comment variet -j RETURN
RULES
        fi
        cat <<RULES
-A $PUBLISHED -p tcp -m conntrack --ctstate DNAT --ctorigdstport $port --ctdir ORIGINAL -m comment --comment variet -j DROP
-A $INPUT -p tcp -m conntrack --ctorigdstport $port --ctdir ORIGINAL -m comment --comment variet -j DROP
RULES
    done
    echo COMMIT
}

tables() { # FAMILY ARGUMENT...: iptables of that IP version
    case "$1" in
        4) shift && iptables -w 5 "$@" ;;
        6) shift && ip6tables -w 5 "$@" ;;
    esac
}

families() { # those that this host speaks
    echo 4
    if [ -e /proc/net/if_inet6 ]; then echo 6; fi
}

has_chain() { # FAMILY CHAIN
    tables "$1" -n -L "$2" >/dev/null 2>&1
}

# The numbers of a chain's rules that jump to TARGET, last first. `-S` begins with the chain itself.
jumps() { # FAMILY CHAIN TARGET
    tables "$1" -S "$2" 2>/dev/null | awk -v target="$3" '
        { for (i = 1; i < NF; i++) if ($i == "-j" && $(i + 1) == target) print NR - 1 }' | sort -rn
}

hook() { # FAMILY CHAIN TARGET: the jump becomes the first rule, and the only one of its kind
    if [ "$(jumps "$@")" = 1 ]; then return; fi
    tables "$1" -I "$2" 1 -m comment --comment variet -j "$3"
    for number in $(jumps "$@"); do
        if [ "$number" != 1 ]; then tables "$1" -D "$2" "$number"; fi
    done
}

unhook() { # FAMILY CHAIN TARGET
    for number in $(jumps "$@"); do tables "$1" -D "$2" "$number"; done
}

need_tables() {
    [ "$(id -u)" = 0 ] || fail 3 "needs root. Run: sudo $here/$NAME $action"
    for version in $(families); do
        case "$version" in
            4) program=iptables ;;
            6) program=ip6tables ;;
        esac
        command -v "$program" >/dev/null || fail 3 "the program $program is missing. Install iptables."
        tables "$version" -S INPUT >/dev/null || fail 3 "$program cannot be used, as it says above."
    done
}

# ---- actions ----

show() {
    if [ -z "$address" ]; then
        echo "# BIND_ADDR is loopback: the workstation publishes nothing on the LAN. No rules."
        return
    fi
    echo "# Ports$ports of $address: from $admitted and from this host itself, from nowhere else."
    for version in 4 6; do
        case "$version" in
            4) program=iptables ;;
            6) program=ip6tables ;;
        esac
        printf '\n%s-restore --noflush <<RULES\n' "$program"
        rules "$version"
        echo RULES
        echo "$program -I DOCKER-USER 1 -m comment --comment variet -j $PUBLISHED  # unless it is there"
        echo "$program -I INPUT 1 -m comment --comment variet -j $INPUT  # unless it is there"
    done
    cat <<TEXT

# To do this:           sudo $here/$NAME apply
# It ends with a restart of this host. To keep it:
#   sudo $here/$NAME unit | sudo tee /etc/systemd/system/variet-firewall.service
#   sudo systemctl enable --now variet-firewall
TEXT
}

apply() {
    need_tables
    if [ -z "$address" ]; then
        remove
        return
    fi
    has_chain "$(family "$address")" DOCKER-USER || fail 3 \
        "there is no chain DOCKER-USER. Start Docker, with its iptables firewall, and repeat."
    for version in $(families); do
        case "$version" in
            4) rules 4 | iptables-restore --noflush --wait 5 ;;
            6) rules 6 | ip6tables-restore --noflush --wait 5 ;;
        esac
        if has_chain "$version" DOCKER-USER; then hook "$version" DOCKER-USER "$PUBLISHED"; fi
        hook "$version" INPUT "$INPUT"
    done
    echo "Ports$ports of $address are reachable from $admitted and from this host itself."
}

remove() {
    need_tables
    for version in $(families); do
        unhook "$version" DOCKER-USER "$PUBLISHED"
        unhook "$version" INPUT "$INPUT"
        for chain in "$PUBLISHED" "$INPUT"; do
            if has_chain "$version" "$chain"; then
                tables "$version" -F "$chain"
                tables "$version" -X "$chain"
            fi
        done
    done
    echo "No rules of Variet are in place."
}

missing() { # FAMILY: each rule that is not in place
    for chain in DOCKER-USER:$PUBLISHED INPUT:$INPUT; do
        if ! has_chain "$1" "${chain%:*}" && [ "$1" != "$(family "$address")" ]; then continue; fi
        if [ "$(jumps "$1" "${chain%:*}" "${chain#*:}" | tail -n 1)" != 1 ]; then
            echo "IPv$1: ${chain#*:} is not the first rule of ${chain%:*}."
        fi
    done
    rules "$1" | grep '^-A' | while read -r _ rule; do
        # shellcheck disable=SC2086  # words of ours, without quotes or patterns
        tables "$1" -C $rule 2>/dev/null || echo "IPv$1: missing: $rule"
    done
    wanted=$(rules "$1" | grep -c '^-A')
    found=$({ tables "$1" -S "$PUBLISHED" && tables "$1" -S "$INPUT"; } 2>/dev/null | grep -c '^-A') ||
        true
    [ "$wanted" = "$found" ] || echo "IPv$1: $found rules of $wanted."
}

check() {
    need_tables
    if [ -z "$address" ]; then
        echo "BIND_ADDR is loopback: no rules are needed."
        return
    fi
    gaps=$(for version in $(families); do missing "$version"; done)
    if [ -n "$gaps" ]; then
        printf '%s\n' "$gaps"
        fail 1 "the rules are not in place. Run: sudo $here/$NAME apply"
    fi
    echo "Ports$ports of $address are reachable from $admitted and from this host itself."
}

unit() {
    cat <<TEXT
[Unit]
Description=Variet: who may reach the published ports
Documentation=file://$repository/docs/security.md
After=docker.service network-online.target
Wants=network-online.target
Requires=docker.service
PartOf=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart="$here/$NAME" apply --env-file "$env_file"

[Install]
WantedBy=docker.service
TEXT
}

action=
env_file=${VARIET_ENV_FILE:-.env}
case "$env_file" in
    /*) ;;
    *) env_file=$repository/$env_file ;;
esac
while [ $# -gt 0 ]; do
    case "$1" in
        --env-file)
            [ $# -ge 2 ] || fail 2 "--env-file takes a file."
            case "$2" in
                /*) env_file=$2 ;;
                *) env_file=$PWD/$2 ;;
            esac
            shift
            ;;
        show | apply | remove | check | unit)
            [ -z "$action" ] || fail 2 "one of show, apply, remove, check and unit at a time."
            action=$1
            ;;
        *) fail 2 "unknown argument $1. Use: show, apply, remove, check or unit; --env-file FILE." ;;
    esac
    shift
done
action=${action:-show}
[ "$action" = remove ] || read_settings
"$action"
